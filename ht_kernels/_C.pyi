"""The compiled kernels: thin functions over the C interface in csrc/include/ht_kernels.h.

Tensors are given as addresses, 0 for none; tokens as (address, batch stride, token stride) in elements. The caller
keeps the memory alive and knows that it fits. ``sizes`` is batch, dim, bottleneck, hidden, scales, grid height, grid
width, prefix tokens, masks; ``folded`` and ``grads`` are the fields of FoldedAdapter, contiguous float32, for CUDA the
matrices in the dtype of x. The two functions for CUDA exist only in a build with CUDA kernels.
"""

from collections.abc import Sequence
from typing import Any

def adapter_forward(
    sizes: Sequence[int],
    eps: float,
    bfloat16: bool,
    folded: Sequence[int],
    x: Sequence[int],
    keep: int,
    out: Sequence[int],
    h: int,
    stats: int,
    threads: int,
) -> None: ...
def adapter_backward(
    sizes: Sequence[int],
    eps: float,
    bfloat16: bool,
    folded: Sequence[int],
    grad_out: Sequence[int],
    x: Sequence[int],
    keep: int,
    h: int,
    stats: int,
    grad_x: Sequence[int],
    grads: Sequence[int],
    threads: int,
) -> None: ...
def adapter_forward_workspace_cuda(sizes: Sequence[int], dtype: int) -> int: ...
def adapter_forward_cuda(
    sizes: Sequence[int],
    eps: float,
    dtype: int,
    tf32: bool,
    folded: Sequence[int],
    x: Sequence[int],
    out: Sequence[int],
    workspace: int,
    stream: int,
) -> None: ...
def spectral_filter(sizes: Sequence[int], x: int, mask: int, out: int, threads: int) -> None: ...
def spectral_filter_backward(
    sizes: Sequence[int], grad_out: int, x: int, mask: int, grad_x: int, grad_mask: int, threads: int
) -> None: ...
def cpu_isa() -> str: ...
def build_info() -> dict[str, Any]: ...
