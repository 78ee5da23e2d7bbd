"""Adapters and spectral filters of one GPU backend against the published mathematics in float64, per dtype and shape.

Triton runs with one tile per kernel. A search would compile dozens of tiles, and a fault in one of them could show in
any check.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

import ht_kernels as ht
from ht_kernels import published
from ht_kernels.bench.shake import shake
from ht_kernels.errors import BackendError
from ht_kernels.folding import fold_adapter
from ht_kernels.functional import ht_adapter, ht_adapter_and_norm

from . import limits, low_precision, spectral
from .setting import Item, Row, Setting

Shape = tuple[str, int, int, int, tuple[int, int], int]
"""The variant, with "+" and the form of a spectral filter if there is one; then batch, D, C, grid and prefix tokens."""

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
    ("baseline", 4, 96, 64, (56, 56), 0),
    ("baseline", 8, 1536, 64, (7, 7), 0),
)
DRY_SHAPES: tuple[Shape, ...] = (("hybrid+full", 1, 32, 8, (2, 3), 1),)
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def items(setting: Setting) -> Iterator[Item]:
    """Yield an item, with all dtypes, for each shape of an adapter, and then for each shape of the spectral filter."""
    for seed, shape in enumerate(DRY_SHAPES if setting.dry else SHAPES):
        yield words(shape), lambda seed=seed, shape=shape: check(shape, seed, setting)
    for seed, shape in enumerate(spectral.shapes(setting)):
        name = f"spectral filter, {spectral.words(shape)}"
        yield name, lambda seed=seed, shape=shape: spectral.check(shape, seed, setting)


def words(shape: Shape) -> str:
    variant, batch, dim, bottleneck, grid, prefix = shape
    return f"adapter {variant}, B={batch} D={dim} C={bottleneck} grid={grid[0]}x{grid[1]} P={prefix}"


def one_tile(backend: str | None):
    """A context in which Triton does not search for tiles. For other backends it has no effect."""
    if backend != "triton":
        return nullcontext()
    from ht_kernels.backends.triton import tuning

    return tuning.without_search()


def check(shape: Shape, seed: int, setting: Setting) -> list[Row]:
    """Check an adapter in each dtype, and return a row per dtype.

    A row holds the relative L2 error of ``out - x``, its limit, the error of the LayerNorm of ``out``, and whether two
    calls, one with this norm, gave the same bits.
    """
    _, _, _, _, grid, prefix = shape
    adapter, plain, x = case(shape, seed, setting.device)
    rows = []
    for name, dtype in DTYPES.items():
        low = x.to(dtype)
        exact = _run(low_precision.in_dtype(adapter, torch.float64), low.double(), grid, prefix) - low.double()
        without = _run(low_precision.in_dtype(plain, torch.float64), low.double(), grid, prefix) - low.double()
        with _tf32(name == "tf32"):
            theirs = _error(_run(low_precision.in_dtype(plain, dtype), low, grid, prefix), low, without)
        limit = {"float32": limits.FLOAT32, "tf32": limits.TF32}.get(name, limits.SLACK * theirs)
        row = {
            "kind": "check",
            "what": words(shape),
            "dtype": name,
            "backend": setting.backend,
            "published_error": theirs,
            "limit": limit,
        }
        with _tf32(name == "tf32"):
            rows.append({**row, **_compare(adapter, low, grid, prefix, setting.backend, exact, limit)})
    return rows


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """A context that allows or forbids TF32 in float32 products and convolutions; cuDNN uses TF32 by default."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def case(shape: Shape, seed: int, device: torch.device) -> tuple[nn.Module, nn.Module, Tensor]:
    """Return the adapter to check, a published adapter to compare with, and tokens.

    The adapters have random parameters. They are the same object unless the variant has a spectral filter; then the
    published adapter has a gain instead. Its error in each dtype sets the limit. As in CLIP, some channels of the
    tokens are far larger than the others.
    """
    variant, batch, dim, bottleneck, grid, prefix = shape
    torch.manual_seed(seed)
    variant, _, form = variant.partition("+")
    plain = published.VARIANTS[variant](dim, bottleneck).eval()
    adapter = ht.HTAdapter(dim, bottleneck, variant, form, grid=grid).eval() if form else plain
    for module in dict.fromkeys((plain, adapter)):
        shake(module)
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
    adapter: nn.Module, x: Tensor, grid: tuple[int, int], prefix: int, backend: str | None, exact: Tensor, limit: float
) -> Row:
    folded = fold_adapter(adapter)
    poison = torch.full_like(x, float("nan"))  # the allocator may reuse this memory for the output
    del poison
    try:
        with one_tile(backend):
            out = ht_adapter(x, folded, grid, prefix, backend=backend)
            again, normed = ht_adapter_and_norm(x, folded, grid, prefix, backend=backend)
    except BackendError as error:
        return {"skipped": str(error)}
    error = _error(out, x, exact)
    norm = torch.nn.functional.layer_norm(out.double(), out.shape[-1:], eps=1e-5)
    norm_error = float((normed.double() - norm).norm() / norm.norm())
    passed = error <= limit and norm_error <= max(limits.FLOAT32, torch.finfo(x.dtype).eps)
    return {"error": error, "norm_error": norm_error, "passed": passed, "same_bits": torch.equal(out, again)}
