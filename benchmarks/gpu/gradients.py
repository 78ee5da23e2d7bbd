"""Gradients of adapters and spectral filters on the GPU against the published mathematics in float64."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

import ht_kernels as ht
from ht_kernels.errors import BackendError

from . import correctness, limits, low_precision, spectral
from .setting import Item, Row, Setting

SHAPES: tuple[correctness.Shape, ...] = (
    ("hybrid", 8, 768, 64, (14, 14), 1),
    ("baseline", 2, 768, 64, (16, 16), 5),
    ("freq_enhanced", 3, 200, 24, (5, 9), 2),
    ("hybrid", 2, 1024, 128, (24, 24), 0),
    ("baseline", 4, 96, 64, (56, 56), 0),
    ("baseline", 8, 1536, 64, (7, 7), 0),
)
DRY_SHAPES: tuple[correctness.Shape, ...] = (("hybrid", 1, 32, 8, (2, 3), 1),)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def items(setting: Setting) -> Iterator[Item]:
    """Yield an item for each adapter shape, with all dtypes, and then for each shape of the spectral filter."""
    for seed, shape in enumerate(DRY_SHAPES if setting.dry else SHAPES):
        name = f"gradients of the {correctness.words(shape)}"
        yield name, lambda seed=seed, shape=shape: _check(shape, seed, setting)
    for seed, shape in enumerate(spectral.shapes(setting)):
        name = f"gradients of the spectral filter, {spectral.words(shape)}"
        yield name, lambda seed=seed, shape=shape: spectral.check_gradients(shape, seed, setting)


def _check(shape: correctness.Shape, seed: int, setting: Setting) -> list[Row]:
    """Check the gradients in each dtype, and return a row per dtype.

    The error is the root mean square of the relative L2 errors of the gradients of all parameters and of the tokens, so
    small gradients count as much as large ones.
    """
    variant, _, dim, bottleneck, grid, prefix = shape
    published, _, x = correctness.case(shape, seed, setting.device)
    ours = ht.HTAdapter(dim, bottleneck, variant).eval().to(setting.device)
    ours.load_state_dict(published.state_dict())
    rows = []
    for name, dtype in list(DTYPES.items())[: 2 if setting.dry else None]:
        low = x.to(dtype)
        gradient = torch.randn(x.shape, device=x.device).to(dtype)
        rounded = copy.deepcopy(published).to(dtype)
        exact = _gradients(copy.deepcopy(rounded).double(), low.double(), gradient.double(), grid, prefix)
        theirs = _error(_gradients(low_precision.in_dtype(rounded, dtype), low, gradient, grid, prefix), exact)
        limit = limits.GRADIENTS if dtype == torch.float32 else limits.SLACK * theirs
        row = {
            "kind": "check",
            "what": f"gradients of the {correctness.words(shape)}",
            "dtype": name,
            "backend": setting.backend,
            "published_error": theirs,
            "limit": limit,
        }
        module = ours.to(dtype)
        ht.set_backend(setting.backend)
        try:
            with correctness.one_tile(setting.backend):
                found, again = (_gradients(module, low, gradient, grid, prefix) for _ in range(2))
        except BackendError as refused:
            rows.append({**row, "skipped": str(refused)})
            continue
        finally:
            ht.set_backend(None)
            ours.float().load_state_dict(published.state_dict())
        error, same = _error(found, exact), all(map(torch.equal, found, again))
        rows.append({**row, "error": error, "passed": error <= limit, "same_bits": same})
    return rows


def _gradients(module: nn.Module, x: Tensor, gradient: Tensor, grid: tuple[int, int], prefix: int) -> list[Tensor]:
    """The gradients of the tokens and of all parameters, in the order of ``module.parameters()``."""
    leaf = x.detach().requires_grad_()
    parameters = list(module.parameters())
    return list(torch.autograd.grad(module(leaf, grid, prefix), [leaf, *parameters], gradient))


def _error(found: list[Tensor], exact: list[Tensor]) -> float:
    sizes = [t.norm() for t in exact]
    errors = [(f.double() - e).norm() / size for f, e, size in zip(found, exact, sizes, strict=True) if size > 0]
    return float(torch.stack(errors).square().mean().sqrt())
