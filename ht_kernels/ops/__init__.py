"""The layer between the public functions and the backends: torch operators, the dispatch and the prepared weights.

:mod:`ht_kernels.functional` calls ``adapter``, ``spectral`` and ``grid_to_mask``. All pass the call to ``dispatch``,
the only place that chooses a backend. ``operators`` holds the adapter's operator schema, fake kernels and autograd
formulas, and ``prepared`` holds the cache of prepared weights.
"""
