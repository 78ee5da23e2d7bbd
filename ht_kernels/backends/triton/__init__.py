"""The Triton backend: the GPU path that needs no nvcc, for inference and training in float32, float16 and bfloat16.

``backend`` is what the dispatch calls; it needs no Triton to say that there is none. ``forward``, ``backward`` and
``spectral`` launch the kernels in ``kernels``.
"""
