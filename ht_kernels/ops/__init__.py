"""From checked arguments to a backend: torch operators for who has to see them, and the dispatch.

``adapter`` and ``spectral`` are called by :mod:`ht_kernels.functional`. Both hand the call to ``dispatch``, the only
place that chooses a backend. ``operators`` has the adapter's schema, fake kernels and autograd; ``prepared`` keeps
what backends make of folded weights.
"""
