"""The backends. Each is a module with the same functions; :mod:`ht_kernels.ops.dispatch` chooses among them.

- ``can_run(case)``, ``can_filter(case)`` and ``can_mask(case)`` return None if the backend can run the case, else the
  reason in words.
- ``prepare(folded, dtype, grid)`` returns the prepared weights: the folded weights in the form that the backend needs
  for tokens of a dtype or, under autocast on the CPU, for products in a dtype. They are made once and kept.
- ``infer(prepared, x, layout, autocast)`` computes the adapter without gradients.
- ``prepare_training``, ``empty_state``, ``forward`` and ``backward``, in backends that can train, are for gradients and
  dropout. ``prepare_training`` prepares weights for one step.
- ``spectral_filter`` and ``spectral_filter_backward`` compute the spectral filter by itself.
- ``grid_to_mask``, in backends that have a kernel for it, makes masks of logits on a grid.

No backend imports another.
"""
