"""Checks and timings of the spectral filter by itself, ``irfft2(mask * rfft2(x))``, against torch.fft."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ht_kernels.errors import BackendError
from ht_kernels.functional import spectral_filter

from . import limits, measure
from .setting import Row, Setting

Shape = tuple[int, int, tuple[int, int]]
"""Batch, channels and grid."""

_SHAPES: tuple[Shape, ...] = (
    (32, 64, (14, 14)),
    (4, 64, (24, 24)),
    (2, 40, (37, 31)),
    (1, 8, (64, 64)),
    (3, 11, (5, 8)),
    (2, 3, (1, 1)),
)
_TIMED: tuple[Shape, ...] = ((32, 64, (14, 14)), (32, 64, (24, 24)))
_DRY: tuple[Shape, ...] = ((1, 2, (2, 3)),)


def shapes(setting: Setting) -> tuple[Shape, ...]:
    """The shapes to check."""
    return _DRY if setting.dry else _SHAPES


def timed(setting: Setting) -> tuple[Shape, ...]:
    """The shapes to time."""
    return _DRY if setting.dry else _TIMED


def words(shape: Shape) -> str:
    batch, channels, grid = shape
    return f"B={batch} C={channels} grid={grid[0]}x{grid[1]}"


@torch.no_grad()
def check(shape: Shape, seed: int, setting: Setting) -> list[Row]:
    """Check the filter in each dtype, and return rows like those of :func:`benchmarks.gpu.correctness.check`.

    The published computation is torch.fft in float32, with the result rounded to the dtype.
    """
    from .correctness import one_tile

    x, mask = _inputs(shape, setting, seed)
    rows = []
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        low = x.to(dtype)
        exact = _by_fft(low.double(), mask.to(torch.complex128))
        theirs = _error(_by_fft(low, mask), exact)
        limit = limits.FLOAT32 if dtype == torch.float32 else limits.SLACK * theirs
        row = _check_row(f"spectral filter, {words(shape)}", dtype, setting, theirs, limit)
        try:
            with one_tile(setting.backend):
                out, again = (spectral_filter(low, mask, backend=setting.backend) for _ in range(2))
        except BackendError as refused:
            rows.append({**row, "skipped": str(refused)})
            continue
        error = _error(out, exact)
        rows.append({**row, "error": error, "passed": error <= limit, "same_bits": torch.equal(out, again)})
    return rows


def check_gradients(shape: Shape, seed: int, setting: Setting) -> list[Row]:
    """Check the gradients of x and of the mask in float32, and return a row with the larger error of both."""
    from .correctness import one_tile

    x, mask = _inputs(shape, setting, seed)
    wide = _gradients(_by_fft, x.double(), mask.to(torch.complex128))
    theirs = max(map(_error, _gradients(_by_fft, x, mask), wide))
    row = _check_row(f"gradients of the spectral filter, {words(shape)}", x.dtype, setting, theirs, limits.GRADIENTS)
    try:
        with one_tile(setting.backend):
            found, again = (_gradients(_ours(setting.backend), x, mask) for _ in range(2))
    except BackendError as refused:
        return [{**row, "skipped": str(refused)}]
    error, same = max(map(_error, found, wide)), all(map(torch.equal, found, again))
    return [{**row, "error": error, "passed": error <= limits.GRADIENTS, "same_bits": same}]


def forward(shape: Shape, dtype: torch.dtype, setting: Setting) -> list[Row]:
    """Time each implementation without gradients."""
    x, mask = _inputs(shape, setting, 0)
    inputs = measure.rotated(lambda: torch.randn_like(x).to(dtype), setting.device)
    functions = {
        "torch.fft, eager": measure.over(lambda x: _by_fft(x, mask), inputs),
        "ours": measure.over(lambda x: spectral_filter(x, mask, backend=setting.backend), inputs),
    }
    row = measure.compare(
        f"spectral filter, {words(shape)}, {str(dtype).removeprefix('torch.')}",
        functions,
        len(inputs),
        setting,
        floor=measure.over(torch.clone, inputs),
        graphs=functions,
        backend=setting.backend,
    )
    return [row]


def training(shape: Shape, dtype: torch.dtype, setting: Setting) -> list[Row]:
    """Time the forward and backward of each implementation."""
    x, mask = _inputs(shape, setting, 0)
    x = x.to(dtype)
    functions = {
        "torch.fft, eager": lambda: _gradients(_by_fft, x, mask),
        "ours": lambda: _gradients(_ours(setting.backend), x, mask),
    }
    name = f"spectral filter forward + backward, {words(shape)}, {str(dtype).removeprefix('torch.')}"
    return [measure.compare(name, functions, 1, setting, backend=setting.backend)]


def _check_row(what: str, dtype: torch.dtype, setting: Setting, theirs: float, limit: float) -> Row:
    return {
        "kind": "check",
        "what": what,
        "dtype": str(dtype).removeprefix("torch."),
        "backend": setting.backend,
        "published_error": theirs,
        "limit": limit,
    }


def _inputs(shape: Shape, setting: Setting, seed: int) -> tuple[Tensor, Tensor]:
    batch, channels, grid = shape
    torch.manual_seed(seed)
    x, mask = torch.randn(batch, channels, *grid), torch.randn(channels, grid[0], grid[1] // 2 + 1, dtype=torch.cfloat)
    return x.to(setting.device), mask.to(setting.device)


def _by_fft(x: Tensor, mask: Tensor) -> Tensor:
    """The filter by torch.fft. 16-bit ``x`` is cast to float32, because torch has no 16-bit transforms of all sizes."""
    wide = x if x.dtype == torch.float64 else x.float()
    return torch.fft.irfft2(torch.fft.rfft2(wide) * mask, s=x.shape[-2:]).to(x.dtype)


def _ours(backend: str | None) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, mask: spectral_filter(x, mask, backend=backend)


def _gradients(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """The gradients of x and mask. The gradient of the result is set to x."""
    leaves = x.detach().requires_grad_(), mask.detach().requires_grad_()
    return torch.autograd.grad(function(*leaves), leaves, x)


def _error(out: Tensor, exact: Tensor) -> float:
    return float((out.to(exact.dtype) - exact).norm() / exact.norm())
