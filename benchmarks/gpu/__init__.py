"""Everything about the kernels that only a GPU can say: ``python -m benchmarks.gpu --output DIR``.

One call builds the CUDA kernels for the GPU at hand, checks every backend against float64, runs compute-sanitizer where
it is installed, and times the adapter and the whole model against the published code, in less than nine minutes. It
needs torch, triton, timm and, for the CUDA kernels, nvcc, CMake and pybind11; no network and no open_clip.
"""
