"""Everything about the kernels that only a GPU can say: ``python -m benchmarks.gpu --output DIR``.

One call builds the CUDA kernels for the GPU at hand, checks both GPU backends against float64, runs compute-sanitizer
where it is installed, and times adapter, spectral filter and whole model against the published code. It works through
the sections of :mod:`benchmarks.gpu.plan` in order; each is a process of its own with its own share of the budget, and
what it found is on disk the moment it ends, also when it failed or was cut off. It needs torch, triton, timm and, for
the CUDA kernels, nvcc, CMake and pybind11; no network and no open_clip.

``plan`` lists the sections, ``runner`` starts them and keeps the budget, ``section`` is what runs in their processes,
``report`` makes the table. One file holds what each section measures.
"""
