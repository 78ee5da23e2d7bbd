"""Every backend on the GPU, spectral filters too, against the published mathematics in float64, per dtype and shape."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

import ht_kernels as ht
from ht_kernels import published
from ht_kernels.errors import BackendError
from ht_kernels.fold import fold_adapter
from ht_kernels.functional import ht_adapter

from . import baseline

FLOAT32_LIMIT = 1e-5
TF32_LIMIT = 1e-3
SLACK = 1.5
"""How many times the published module's own error in a 16-bit dtype ours may be."""

Shape = tuple[str, int, int, int, tuple[int, int], int]
"""Variant, with the form of a spectral filter behind a plus; batch, D, C, grid, prefix tokens."""

SHAPES: tuple[Shape, ...] = (
    ("hybrid", 1, 768, 64, (14, 14), 1),
    ("hybrid", 32, 768, 64, (14, 14), 1),
    ("hybrid", 3, 192, 64, (14, 14), 1),
    ("baseline", 2, 768, 64, (14, 14), 1),
    ("noise_aware", 2, 768, 64, (16, 16), 5),
    ("freq_enhanced", 2, 1024, 64, (24, 24), 1),
    ("hybrid", 2, 1024, 128, (37, 37), 0),
    ("hybrid", 5, 200, 24, (5, 9), 2),
    ("baseline", 7, 64, 8, (1, 1), 0),
    ("hybrid", 3, 384, 48, (1, 40), 1),
    ("hybrid+full", 2, 768, 64, (14, 14), 1),
    ("freq_enhanced+shared", 3, 1024, 64, (24, 24), 1),
    ("hybrid+radial", 5, 200, 24, (5, 9), 2),
    ("hybrid+full", 2, 1024, 128, (37, 37), 0),
)
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def check(backends: Collection[str], device: torch.device, shapes: Collection[Shape] = SHAPES) -> list[dict[str, Any]]:
    """One row per shape, dtype and backend: the relative L2 error of ``out - x``, what was allowed, and whether it
    gave the same bits twice."""
    rows = []
    for index, shape in enumerate(shapes):
        variant, batch, dim, bottleneck, grid, prefix = shape
        adapter, plain, x = _case(shape, index, device)
        for name, dtype in DTYPES.items():
            torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
            low = x.to(dtype)
            exact = _run(baseline.in_dtype(adapter, torch.float64), low.double(), grid, prefix) - low.double()
            without = _run(baseline.in_dtype(plain, torch.float64), low.double(), grid, prefix) - low.double()
            theirs = _error(_run(baseline.in_dtype(plain, dtype), low, grid, prefix), low, without)
            limit = {"float32": FLOAT32_LIMIT, "tf32": TF32_LIMIT}.get(name, SLACK * theirs)
            for backend in backends:
                row = {
                    "shape": f"{variant} B={batch} D={dim} C={bottleneck} grid={grid[0]}x{grid[1]} P={prefix}",
                    "dtype": name,
                    "backend": backend,
                    "published_error": theirs,
                    "limit": limit,
                }
                rows.append({**row, **_compare(adapter, low, grid, prefix, backend, exact, limit)})
    torch.set_float32_matmul_precision("highest")
    return rows


def _case(shape: Shape, seed: int, device: torch.device) -> tuple[nn.Module, nn.Module, Tensor]:
    """An adapter with random parameters, the published one that runs in every dtype, which is the same but for a
    spectral filter, and tokens with channels far larger than the rest, as CLIP has them."""
    variant, batch, dim, bottleneck, grid, prefix = shape
    torch.manual_seed(seed)
    variant, _, form = variant.partition("+")
    plain = published.VARIANTS[variant](dim, bottleneck).eval()
    adapter = ht.HTAdapter(dim, bottleneck, variant, form, grid=grid).eval() if form else plain
    with torch.no_grad():
        for module in dict.fromkeys((plain, adapter)):
            for parameter in module.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    x = torch.randn(batch, prefix + grid[0] * grid[1], dim)
    x[..., :3] *= 50
    return adapter.to(device), plain.to(device), x.to(device)


@torch.no_grad()
def _run(adapter: nn.Module, x: Tensor, grid: tuple[int, int], prefix: int) -> Tensor:
    return adapter(x, grid, prefix)


def _error(out: Tensor, x: Tensor, exact: Tensor) -> float:
    return float((out.double() - x.double() - exact).norm() / exact.norm())


@torch.no_grad()
def _compare(
    adapter: nn.Module, x: Tensor, grid: tuple[int, int], prefix: int, backend: str, exact: Tensor, limit: float
) -> dict[str, Any]:
    folded = fold_adapter(adapter)
    poison = torch.full_like(x, float("nan"))  # the allocator may hand this memory to the output next
    del poison
    try:
        out = ht_adapter(x, folded, grid, prefix, backend=backend)
        again = ht_adapter(x, folded, grid, prefix, backend=backend)
    except BackendError as error:
        return {"skipped": str(error)}
    error = _error(out, x, exact)
    return {"error": error, "passed": error <= limit, "same_bits": torch.equal(out, again)}
