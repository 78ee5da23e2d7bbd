"""The backends. Each is a module with the same functions; :mod:`ht_kernels.ops.dispatch` chooses among them.

- ``can_run(case)`` and ``can_filter(case)``: None when it can, else the reason in words.
- ``prepare(folded, dtype, grid)``: what it needs of a set of folded weights for tokens of a dtype, made once and kept.
- ``infer(prepared, x, layout, autocast)``: the adapter without gradients.
- ``empty_state``, ``forward``, ``backward``: the adapter with gradients and dropout, for backends that have them.
- ``spectral_filter``, ``spectral_filter_backward``: the filter by itself.

None imports another.
"""
