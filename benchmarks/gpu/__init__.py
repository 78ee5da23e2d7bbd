"""Checks and timings of the kernels that need a GPU: ``python -m benchmarks.gpu --output DIR``.

One call builds the CUDA kernels for the current GPU, checks both GPU backends against float64, runs compute-sanitizer
if it is installed, and times adapter, spectral filter and whole model against the published code. It runs the sections
of :mod:`benchmarks.gpu.plan` in order. Each section is a separate process with its share of the time budget, and its
results are on disk as soon as it ends, even if it failed or was cut off. The call needs torch, triton, timm and, for
the CUDA kernels, nvcc, CMake and pybind11. It needs neither a network nor open_clip.

``plan`` lists the sections, ``runner`` starts them and keeps the budget, ``section`` runs in each section's process,
and ``report`` makes the table. Each section has a module that defines what it measures.
"""
