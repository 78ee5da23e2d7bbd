"""Adapters to time at ViT-B/16 sizes: the published module and ours with the same parameters, and their tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import ht_kernels as ht
from ht_kernels import published
from ht_kernels.bench.cases import BOTTLENECK, DIM, GRID, PREFIX
from ht_kernels.bench.shake import shake

from . import low_precision, measure
from .measure import over, rotated
from .setting import Row, Setting


class Sizes:
    """The sizes to time: ViT-B/16 at 224x224, or, in a dry run, the smallest sizes that run the same code."""

    def __init__(self, dry: bool) -> None:
        self.dim, self.bottleneck, self.grid = (32, 8, (2, 3)) if dry else (DIM, BOTTLENECK, GRID)
        self.prefix = PREFIX
        self.tokens = PREFIX + self.grid[0] * self.grid[1]
        self.batches = (1,) if dry else (1, 32, 64)


def pair(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> tuple[nn.Module, ht.HTAdapter]:
    """The published adapter and ours in ``dtype``, with the same random changes to all initial parameters."""
    torch.manual_seed(0)
    theirs = published.HybridAdapter(sizes.dim, sizes.bottleneck).eval()
    shake(theirs)
    ours = ht.HTAdapter(sizes.dim, sizes.bottleneck, "hybrid").eval()
    ours.load_state_dict(theirs.state_dict())
    return low_precision.in_dtype(theirs.to(device), dtype), ours.to(device, dtype)


def tokens(sizes: Sizes, batch: int, dtype: torch.dtype, setting: Setting) -> list[Tensor]:
    """Inputs to use in turn: one in a dry run. With batch 1 they all fit into L2, where in a model the preceding block
    leaves tokens."""
    generator = torch.Generator(setting.device).manual_seed(1)

    def make() -> Tensor:
        shape = (batch, sizes.tokens, sizes.dim)
        return torch.randn(shape, device=setting.device, generator=generator).to(dtype)

    if setting.dry:
        return [make()]
    return [make() for _ in range(4)] if batch == 1 else rotated(make, setting.device)


def compare(
    what: str,
    name: str,
    theirs: Callable[..., Tensor],
    ours: nn.Module,
    sizes: Sizes,
    inputs: list[Tensor],
    setting: Setting,
) -> Row:
    """Time the published adapter, called ``name``, and ours, plain and as CUDA graphs; return a row."""
    functions = {
        name: over(lambda x: theirs(x, sizes.grid, sizes.prefix), inputs),
        "ours": over(lambda x: ours(x, sizes.grid, sizes.prefix), inputs),
    }
    floor = over(torch.clone, inputs)
    return measure.compare(
        what, functions, len(inputs), setting, floor=floor, graphs=functions, backend=setting.backend
    )
