"""Errors of the CPU kernels and of the published module in bfloat16, against the published mathematics in float64.

``python -m helpers.bfloat16_products`` prints the instruction set and the errors of all cases as JSON. It is a process
of its own because kernels choose their instruction set once.
"""

from __future__ import annotations

import copy
import json
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

import ht_kernels as ht
from ht_kernels.published import VARIANTS, PublishedAdapter

from .adapters import random_adapter, relative_error, run_adapter

SIZES = {"even": (192, 64, (14, 14)), "odd": (75, 21, (5, 9))}
"""Token width, bottleneck and grid."""


def tokens(kind: str, dim: int, grid: tuple[int, int]) -> Tensor:
    """Tokens (2, 1 + H*W, D) that bfloat16 holds exactly, in float32.

    ``outliers`` have a channel 50 times larger than the rest, as CLIP residual streams have, and ``mean`` a mean that
    is large against their deviation.
    """
    torch.manual_seed(1)
    x = torch.randn(2, 1 + grid[0] * grid[1], dim)
    if kind == "outliers":
        x += 0.5
        x[..., 5] = x[..., 5] * 50 + 300
    if kind == "mean":
        x += 20
    return x.bfloat16().float()


def transform_in_float32(adapter: PublishedAdapter) -> None:
    """Let the adapter run in bfloat16, in which torch has no Fourier transform: that is computed in float32."""
    conv = adapter.adapter_conv
    filtered = type(conv).filtered
    conv.filtered = lambda s: filtered(conv, s.float()).to(s.dtype)  # type: ignore[method-assign]


def errors(variant: str, size: str, kind: str, mode: str) -> dict[str, tuple[float, float]]:
    """The relative errors of our adapter and of the published one: of ``out - x``, gradients and inference."""
    dim, bottleneck, grid = SIZES[size]
    dtype = torch.bfloat16 if mode == "bfloat16" else torch.float32
    published = random_adapter(variant, dim, bottleneck).to(dtype)
    transform_in_float32(published)
    exact = random_adapter(variant, dim, bottleneck)
    exact.load_state_dict(copy.deepcopy(published.state_dict()))
    ours = ht.HTAdapter(dim, bottleneck, variant).to(dtype).eval()
    ours.load_state_dict(published.state_dict())
    x = tokens(kind, dim, grid)
    grad = torch.randn_like(x).bfloat16().float()

    def around() -> AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16) if mode == "autocast" else nullcontext()

    def run(adapter: nn.Module) -> dict[str, Tensor]:
        with around():
            found = run_adapter(adapter, x.to(dtype), grid, 1, grad)
            with torch.no_grad():
                found["inference"] = adapter(x.to(dtype), grid).double() - x.double()
        return found

    expected = run_adapter(exact, x.double(), grid, 1, grad)
    expected["inference"] = expected["out"]
    got, beside = run(ours), run(published)
    return {name: (relative_error(got[name], t), relative_error(beside[name], t)) for name, t in expected.items()}


def main() -> None:
    """Print the instruction set, and the errors of every case by ``variant/size/kind/mode``."""
    from ht_kernels import _C

    found = {
        "/".join(case): errors(*case)
        for case in (
            (variant, size, kind, mode)
            for variant in VARIANTS
            for size in SIZES
            for kind in ("ordinary", "outliers", "mean")
            for mode in ("bfloat16", "autocast")
        )
    }
    print(json.dumps({"isa": _C.cpu_isa(), "errors": found}))


if __name__ == "__main__":
    main()
