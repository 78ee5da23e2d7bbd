"""The Triton backend: the GPU path that needs no nvcc, for inference and training in float32, float16 and bfloat16.

Under ``TRITON_INTERPRET=1`` it also runs on the CPU, in Triton's interpreter: very slowly, for tests.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ht_kernels.errors import BackendError
from ht_kernels.fold import FoldedAdapter

from .. import core

if TYPE_CHECKING:
    from .. import Case, FilterCase

_MAX_BOTTLENECK = 128
_OLDEST = (8, 0)
_MAX_SIDE = 64
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def can_run(case: Case) -> str | None:
    """None when this backend can run ``case``, else the reason."""
    if reason := _place_reason(case.device.type, case.device.index):
        return reason
    if case.spectral and (reason := _grid_reason(case.grid)):
        return reason
    if case.keeps:
        return "it draws dropout factors itself: pass dropout, not keep"
    if case.dtype not in _DTYPES:
        return f"it computes float32, float16 and bfloat16, and x is {case.dtype}"
    if case.bottleneck > _MAX_BOTTLENECK:
        return f"it takes bottlenecks of at most {_MAX_BOTTLENECK} channels, and this one has {case.bottleneck}"
    return core.transforms_reason()


def can_filter(case: FilterCase) -> str | None:
    """None when this backend can run the spectral filter ``case``, else the reason."""
    if reason := _place_reason(case.device.type, case.device.index):
        return reason
    if case.dtype not in _DTYPES:
        return f"it filters float32, float16 and bfloat16, and x is {case.dtype}"
    return _grid_reason(case.grid) or core.transforms_reason()


def _grid_reason(grid: tuple[int, int]) -> str | None:
    """Why the spectral filter cannot run on a grid."""
    if max(grid) <= _MAX_SIDE:
        return None
    return f"it filters grids of at most {_MAX_SIDE}x{_MAX_SIDE}, and this one is {grid[0]}x{grid[1]}"


@core.constant_for_compilers
def _place_reason(device: str, index: int | None) -> str | None:
    """Why the backend cannot run on a device at all."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; it comes with torch for CUDA on Linux"
    if device == "cpu" and _tuning().interpreted():
        return None
    if device != "cuda":
        return f"it runs on a GPU (or with TRITON_INTERPRET=1 on the CPU), and the tensors are on {device}"
    capability = torch.cuda.get_device_capability(index)
    if capability >= _OLDEST:
        return None
    return f"it needs compute capability {_OLDEST[0]}.{_OLDEST[1]}, and the GPU has {capability[0]}.{capability[1]}"


def infer(
    x: Tensor,
    weights: Sequence[Tensor | None],
    grid_height: int,
    grid_width: int,
    prefix_tokens: int,
    eps: float,
    tf32: bool,
) -> Tensor:
    """The adapter of ``x``; arguments as in ``ht_kernels.h``. ``tf32`` lets tensor cores round float32 products.

    Raises:
        BackendError: Triton could not build or start a kernel.
    """
    out = torch.empty_like(x)
    h, _, sums = empty_state(x, weights, x.dtype)
    _forward(x, weights, None, 0.0, out, h, None, sums, grid_height, grid_width, prefix_tokens, eps, tf32)
    return out


def empty_state(x: Tensor, weights: Sequence[Tensor | None], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Memory for what a training forward keeps: the bottleneck (B, N, C) in ``dtype``, mean and rstd (B, N, 2) of the
    tokens, and for the noise estimator sums of the bottleneck over a few tokens each (B, N / 16, C), in float32."""
    batch, tokens, _ = x.shape
    channels = _width(weights)
    estimated = FoldedAdapter(*weights).hidden_weight is not None  # type: ignore[arg-type]
    parts = -(-tokens // _kernel("down_project").SUM_ROWS)
    return (
        x.new_empty((batch, tokens, channels), dtype=dtype),
        x.new_empty((batch, tokens, 2), dtype=torch.float32),
        x.new_empty((batch, parts, channels) if estimated else (0,), dtype=torch.float32),
    )


def train_forward(
    x: Tensor,
    weights: Sequence[Tensor | None],
    seed: Tensor | None,
    dropout: float,
    grid_height: int,
    grid_width: int,
    prefix_tokens: int,
    eps: float,
    dtype: torch.dtype,
    tf32: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The adapter of ``x`` and the state of :func:`empty_state`, for :func:`train_backward`.

    Arguments as in ``ht_kernels.h`` and: ``seed``, one int64 on the device of ``x``, or None without dropout;
    ``dropout``, its probability; ``dtype``, what matrices and the bottleneck are rounded to; ``tf32``, whether tensor
    cores may round float32 products.

    Raises:
        BackendError: Triton could not build or start a kernel.
    """
    out, (h, stats, sums) = torch.empty_like(x), empty_state(x, weights, dtype)
    _forward(x, weights, seed, dropout, out, h, stats, sums, grid_height, grid_width, prefix_tokens, eps, tf32)
    return out, h, stats, sums


def train_backward(
    grad_out: Tensor,
    x: Tensor,
    weights: Sequence[Tensor | None],
    seed: Tensor | None,
    h: Tensor,
    stats: Tensor,
    sums: Tensor,
    grad_x: Tensor | None,
    dropout: float,
    grid_height: int,
    grid_width: int,
    prefix_tokens: int,
    tf32: bool,
) -> FoldedAdapter:
    """Float32 gradients of the folded weights; fills ``grad_x`` unless it is None.

    The other arguments as :func:`train_forward` had and returned them.

    Raises:
        BackendError: Triton could not build or start a kernel.
    """
    ready, _ = core.ready_for_gpu(h.dtype, weights)
    source = core.unit_stride(x)
    target = grad_x if grad_x is None or grad_x.stride(2) == 1 else torch.empty_like(source)
    with _running(x), torch.autocast(x.device.type, enabled=False):
        grads: FoldedAdapter = _kernel("backward").backward(
            core.unit_stride(grad_out),
            source,
            FoldedAdapter(*ready),  # type: ignore[arg-type]
            seed,
            h.contiguous(),
            stats.contiguous(),
            sums.contiguous(),
            target,
            dropout,
            (grid_height, grid_width),
            prefix_tokens,
            "tf32" if tf32 else "ieee",
        )
    if grad_x is not None and target is not None and target is not grad_x:
        grad_x.copy_(target)
    return grads


def spectral_filter(x: Tensor, mask: Tensor, out: Tensor) -> None:
    """Fill ``out`` (B, C, H, W), contiguous; ``mask`` (C or 1, H, W // 2 + 1, 2) in float32.

    Raises:
        BackendError: Triton could not build or start a kernel.
    """
    grid = (x.shape[2], x.shape[3])
    with _running(x):
        _kernel("filter").filter_images(x.contiguous().flatten(2), mask.contiguous(), out.flatten(2), grid)


def spectral_filter_backward(grad_out: Tensor, x: Tensor, mask: Tensor, grad_x: Tensor, grad_mask: Tensor) -> None:
    """Fill ``grad_x`` and ``grad_mask``, contiguous.

    Raises:
        BackendError: Triton could not build or start a kernel.
    """
    grid, grad_out, mask = (x.shape[2], x.shape[3]), grad_out.contiguous().flatten(2), mask.contiguous()
    with _running(x):
        _kernel("filter").filter_images(grad_out, mask, grad_x.flatten(2), grid, conjugated=True)
        grad_mask.copy_(_kernel("filter").mask_gradient(grad_out, x.contiguous().flatten(2), mask, grid))


def _width(weights: Sequence[Tensor | None]) -> int:
    down_weight = weights[0]
    assert down_weight is not None
    return down_weight.shape[0]


@contextmanager
def _running(x: Tensor) -> Iterator[None]:
    """Launch kernels on the device of ``x``, and turn what goes wrong into a BackendError."""
    try:
        with torch.cuda.device(x.device if x.is_cuda else -1):
            yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever its compiler, its autotuner or the driver raise
        raise BackendError(f"Triton could not run the kernels: {type(error).__name__}: {error}") from error


def _forward(
    x: Tensor,
    weights: Sequence[Tensor | None],
    seed: Tensor | None,
    dropout: float,
    out: Tensor,
    h: Tensor,
    stats: Tensor | None,
    sums: Tensor,
    *how: Any,
) -> None:
    if out.numel() == 0:
        return
    ready, _ = core.ready_for_gpu(h.dtype, weights)
    source = core.unit_stride(x)
    target = out if out.stride(2) == 1 else torch.empty_like(source)
    with _running(x):
        _launch(source, target, ready, seed, dropout, h, stats, sums, *how)
    if target is not out:
        out.copy_(target)


def _launch(
    x: Tensor,
    out: Tensor,
    weights: Sequence[Tensor | None],
    seed: Tensor | None,
    dropout: float,
    h: Tensor,
    stats: Tensor | None,
    sums: Tensor,
    height: int,
    width: int,
    prefix: int,
    eps: float,
    tf32: bool,
) -> None:
    down, mix = _kernel("down_project"), _kernel("mix_and_up_project")
    batch, dim, channels, hidden, scales, *_ = core.sizes(x, weights, height, width, prefix)
    tokens = x.shape[1]
    work = _tuning().size_of(batch * tokens)
    precision, mask = "tf32" if tf32 else "ieee", weights[14]

    def tiles(tile: dict[str, Any]) -> int:
        return batch * -(-tokens // int(tile["ROWS"]))

    down.down_project[lambda tile: (tiles(tile), -(-channels // tile["COLUMNS"]))](
        x,
        *weights[:4],
        h,
        sums,
        stats,
        tokens,
        prefix,
        x.stride(0),
        x.stride(1),
        eps,
        work,
        DIM=dim,
        CHANNELS=channels,
        POOL=scales == 3,
        STATS=stats is not None,
        PRECISION=precision,
        SUM_ROWS=down.SUM_ROWS,
    )
    filtered = h
    if mask is not None:
        filtered = _kernel("filter").filter_patches(h, mask, (height, width), prefix)
    mix.mix_and_up_project[lambda tile: (tiles(tile), tile["SLICES"])](
        x,
        out,
        h,
        filtered,
        sums,
        *weights[4:14],
        seed,
        dropout,
        tokens,
        prefix,
        height,
        width,
        -(-tokens // down.SUM_ROWS),
        x.stride(0),
        x.stride(1),
        out.stride(0),
        out.stride(1),
        work,
        DIM=dim,
        CHANNELS=channels,
        HIDDEN=hidden,
        SCALES=scales,
        SPECTRAL=mask is not None,
        DROPOUT=seed is not None,
        ALL_CHANNELS=_tuning().padded(channels),
        ALL_HIDDEN=_tuning().padded(hidden),
        PRECISION=precision,
    )


@functools.cache
def _kernel(stage: str) -> Any:
    return importlib.import_module(f"{__name__}.{stage}")


@functools.cache
def _tuning() -> Any:
    return importlib.import_module(f"{__name__}.tuning")
