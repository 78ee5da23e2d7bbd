"""The Triton backend, for inference and training on a GPU in float32, float16 and bfloat16. It needs no nvcc.

The dispatch calls ``backend``, which can be imported without Triton and then says that Triton is missing. ``forward``,
``backward`` and ``spectral`` launch the kernels in ``kernels``.
"""
