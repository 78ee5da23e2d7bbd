"""The compiled kernels: thin functions over the C interface in csrc/include/ht_kernels.h.

Tensors are passed as addresses, 0 for none, and tokens as (address, batch stride, token stride), with strides in
elements. The caller keeps the memory alive and is responsible for its size. ``folded`` and ``grads`` are FoldedAdapters
with contiguous float32 weights; for CUDA, the matrices have the dtype of x. ``seconds`` is float64 (threads, stages),
to which the seconds of each stage are added, or 0 to measure nothing. ``sizes`` of a filter is (batch, channels,
height, width, masks), that of a mask (batch, classes, grid_height, grid_width, height, width), and that of a frame
(height, width, channels, out_height, out_width). ``row_stride`` is in bytes.
"""

from collections.abc import Sequence
from typing import Any

class CpuAdapter:
    def __init__(self, folded: object, grid_height: int, grid_width: int, bfloat16_factors: bool) -> None: ...
    def forward(
        self,
        batch: int,
        grid_height: int,
        grid_width: int,
        prefix_tokens: int,
        eps: float,
        bfloat16: bool,
        x: Sequence[int],
        keep: int,
        out: Sequence[int],
        h: int,
        stats: int,
        threads: int,
        seconds: int = 0,
    ) -> None: ...
    def backward(
        self,
        batch: int,
        grid_height: int,
        grid_width: int,
        prefix_tokens: int,
        eps: float,
        bfloat16: bool,
        grad_out: Sequence[int],
        x: Sequence[int],
        keep: int,
        h: int,
        stats: int,
        grad_x: Sequence[int],
        grads: object,
        threads: int,
        seconds: int = 0,
    ) -> None: ...

class CudaAdapter:  # in a build with CUDA kernels only
    def __init__(self, folded: object, dtype: int) -> None: ...
    def prepared(self) -> int: ...
    def prepare(self, prepared: int, stream: int) -> None: ...
    def workspace(self, batch: int, grid_height: int, grid_width: int, prefix_tokens: int, eps: float) -> int: ...
    def forward(
        self,
        batch: int,
        grid_height: int,
        grid_width: int,
        prefix_tokens: int,
        eps: float,
        tf32: bool,
        prepared: int,
        x: Sequence[int],
        out: Sequence[int],
        normed: Sequence[int],
        norm_eps: float,
        workspace: int,
        stream: int,
    ) -> None: ...

def adapter_weights() -> list[str]: ...
def step_state(sizes: Sequence[int]) -> int: ...
def step_forward(
    sizes: Sequence[int],
    masks: int,
    call: Sequence[int],
    eps: float,
    bfloat16: bool,
    bfloat16_factors: bool,
    parts: object,
    weights: object,
    x: Sequence[int],
    keep: int,
    out: Sequence[int],
    state: int,
    threads: int,
) -> None: ...
def step_backward(
    sizes: Sequence[int],
    masks: int,
    call: Sequence[int],
    eps: float,
    bfloat16: bool,
    parts: object,
    weights: object,
    grad_out: Sequence[int],
    x: Sequence[int],
    keep: int,
    state: int,
    grad_x: Sequence[int],
    part_grads: object,
    weight_grads: object,
    threads: int,
) -> None: ...
def fold(sizes: Sequence[int], masked: bool, parts: object, results: object) -> None: ...
def fold_backward(
    sizes: Sequence[int], masked: bool, parts: object, down_weight_grad: int, result_grads: object, part_grads: object
) -> None: ...
def adapter_stages() -> list[str]: ...
def spectral_filter(sizes: Sequence[int], x: int, mask: int, out: int, threads: int) -> None: ...
def spectral_filter_backward(
    sizes: Sequence[int], grad_out: int, x: int, mask: int, grad_x: int, grad_mask: int, threads: int
) -> None: ...
def spectral_filter_cuda(  # in a build with CUDA kernels only
    sizes: Sequence[int], dtype: int, x: int, mask: int, out: int, stream: int
) -> None: ...
def grid_to_mask(sizes: Sequence[int], logits: int, mask: int, threads: int) -> None: ...
def grid_to_mask_cuda(  # in a build with CUDA kernels only
    sizes: Sequence[int], logits: int, mask: int, stream: int
) -> None: ...
def preprocess(sizes: Sequence[int], frame: int, row_stride: int, pixels: int, threads: int) -> None: ...
def crc64(bytes: int, count: int, crc: int) -> int: ...
def cpu_isa() -> str: ...
def build_info() -> dict[str, Any]: ...
