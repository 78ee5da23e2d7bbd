"""The spectral filter by itself, ``irfft2(mask * rfft2(x))``, against torch.fft."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from ht_kernels.errors import BackendError
from ht_kernels.functional import spectral_filter

from .correctness import FLOAT32_LIMIT, SLACK
from .timing import Call, interleave, runnable

Shape = tuple[int, int, tuple[int, int]]
"""Batch, channels, grid."""

SHAPES: tuple[Shape, ...] = (
    (32, 64, (14, 14)),
    (4, 64, (24, 24)),
    (2, 40, (37, 31)),
    (1, 8, (64, 64)),
    (3, 11, (5, 8)),
    (2, 3, (1, 1)),
)
TIMED: tuple[Shape, ...] = ((32, 64, (14, 14)), (32, 64, (24, 24)))


@torch.no_grad()
def check(backends: Collection[str], device: torch.device, shapes: Collection[Shape] = SHAPES) -> list[dict[str, Any]]:
    """Rows as in :func:`benchmarks.gpu.correctness.check`; torch.fft in float32, rounded, is the published way."""
    rows = []
    for seed, shape in enumerate(shapes):
        x, mask = _inputs(shape, device, seed)
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            low = x.to(dtype)
            exact = _by_fft(low.double(), mask.to(torch.complex128))
            theirs = _error(_by_fft(low, mask), exact)
            limit = FLOAT32_LIMIT if dtype == torch.float32 else SLACK * theirs
            for backend in backends:
                row = {
                    "shape": f"spectral filter {_name(shape)}",
                    "dtype": str(dtype).removeprefix("torch."),
                    "backend": backend,
                    "published_error": theirs,
                    "limit": limit,
                }
                try:
                    out, again = (spectral_filter(low, mask, backend=backend) for _ in range(2))
                except BackendError as refused:
                    rows.append({**row, "skipped": str(refused)})
                    continue
                error = _error(out, exact)
                rows.append({**row, "error": error, "passed": error <= limit, "same_bits": torch.equal(out, again)})
    return rows


def check_gradients(
    backends: Collection[str], device: torch.device, shapes: Collection[Shape] = SHAPES
) -> list[dict[str, Any]]:
    """The same for the gradients of x and of the mask in float32, the larger error of both."""
    rows = []
    for seed, shape in enumerate(shapes):
        x, mask = _inputs(shape, device, seed)
        wide = _gradients(_by_fft, x.double(), mask.to(torch.complex128))
        theirs = max(map(_error, _gradients(_by_fft, x, mask), wide))
        for backend in backends:
            row = {
                "shape": f"gradients of the spectral filter {_name(shape)}",
                "dtype": "float32",
                "backend": backend,
                "published_error": theirs,
                "limit": FLOAT32_LIMIT,
            }
            try:
                found, again = (_gradients(_by(backend), x, mask) for _ in range(2))
            except BackendError as refused:
                rows.append({**row, "skipped": str(refused)})
                continue
            error, same = max(map(_error, found, wide)), all(map(torch.equal, found, again))
            rows.append({**row, "error": error, "passed": error <= FLOAT32_LIMIT, "same_bits": same})
    return rows


def forward(
    shape: Shape, dtype: torch.dtype, backends: Collection[str], device: torch.device, seconds: float
) -> dict[str, Any]:
    """Seconds per call of each implementation, without gradients."""
    x, mask = _inputs(shape, device, 0)
    x = x.to(dtype)

    def call(function: Callable[[Tensor, Tensor], Tensor]) -> Call:
        def run() -> None:
            with torch.no_grad():
                function(x, mask)

        return run

    functions = {
        "torch.fft, eager": call(_by_fft),
        "torch.fft, compile": call(torch.compile(_by_fft, dynamic=False)),
    }
    for backend in backends:
        functions[f"ours, {backend}"] = call(_by(backend))
    return _row("spectral filter", shape, dtype, functions, device, seconds)


def training(shape: Shape, dtype: torch.dtype, device: torch.device, seconds: float) -> dict[str, Any]:
    """Seconds of forward and backward; ours uses the backend it chooses."""
    x, mask = _inputs(shape, device, 0)
    x = x.to(dtype)
    functions = {
        "torch.fft, eager": lambda: _gradients(_by_fft, x, mask),
        "ours": lambda: _gradients(spectral_filter, x, mask),
    }
    return _row("spectral filter forward + backward", shape, dtype, functions, device, seconds)


def _row(
    what: str, shape: Shape, dtype: torch.dtype, functions: dict[str, Call], device: torch.device, seconds: float
) -> dict[str, Any]:
    calls, failed = runnable(functions, device)
    return {
        "what": f"{what} {_name(shape)}",
        "batch": shape[0],
        "dtype": str(dtype).removeprefix("torch."),
        "timings": interleave(calls, dict.fromkeys(calls, 1), device, seconds),
        "failed": failed,
        "floor": None,
    }


def _name(shape: Shape) -> str:
    batch, channels, grid = shape
    return f"B={batch} C={channels} grid={grid[0]}x{grid[1]}"


def _inputs(shape: Shape, device: torch.device, seed: int) -> tuple[Tensor, Tensor]:
    batch, channels, grid = shape
    torch.manual_seed(seed)
    x, mask = torch.randn(batch, channels, *grid), torch.randn(channels, grid[0], grid[1] // 2 + 1, dtype=torch.cfloat)
    return x.to(device), mask.to(device)


def _by_fft(x: Tensor, mask: Tensor) -> Tensor:
    """torch has no transform of these sizes in 16 bits."""
    wide = x if x.dtype == torch.float64 else x.float()
    return torch.fft.irfft2(torch.fft.rfft2(wide) * mask, s=x.shape[-2:]).to(x.dtype)


def _by(backend: str) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, mask: spectral_filter(x, mask, backend=backend)


def _gradients(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """Of x and mask; that of the result is x."""
    leaves = x.detach().requires_grad_(), mask.detach().requires_grad_()
    return torch.autograd.grad(function(*leaves), leaves, x)


def _error(out: Tensor, exact: Tensor) -> float:
    return float((out.to(exact.dtype) - exact).norm() / exact.norm())
