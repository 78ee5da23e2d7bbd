"""Mona in Swin blocks: eager, under torch.compile, and after ``ht.accelerate``.

``python -m benchmarks.mona --output FILE`` times one adapter of each stage of Swin-T and of the last stage of Swin-L,
alone and in float32, in inference and in forward with backward. The three ways are timed in turn.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ht_kernels as ht
from ht_kernels.bench.shake import shake
from ht_kernels.bench.text import milliseconds, times
from ht_kernels.errors import InputError
from ht_kernels.published import BaselineAdapter

from . import figures
from .gpu.measure import Call, interleave

SIZES = ((96, 56), (192, 28), (384, 14), (768, 7), (1536, 7))
"""The widths of the stages, and the sides of their grids for images of 224x224."""
WAYS = ("eager", "compile", "ours")
PASSES = ("forward", "forward + backward")


class Mona(BaselineAdapter):
    """The adapter as its authors describe it: for the tokens of a grid alone, which ``hw_shapes`` gives."""

    def forward(self, x: Tensor, hw_shapes: tuple[int, int]) -> Tensor:  # type: ignore[override]
        """Adapt tokens (B, H*W, D)."""
        h = self.project1(self.norm(x) * self.gamma + x * self.gammax)
        m = self.adapter_conv(h.transpose(1, 2).unflatten(2, hw_shapes)).flatten(2).transpose(1, 2)
        out: Tensor = x + self.project2(self.dropout(F.gelu(m)))
        return out


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark. Return exit status 0, or 2 for bad input."""
    parser = figures.options("mona", __doc__, seconds=10)
    parser.add_argument("--batch", type=int, nargs="+", default=(1, 8), help="images of a call (default: 1 8)")
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows: list[dict[str, Any]] = []
    try:
        for kind in PASSES:
            for dim, side in SIZES:
                for batch in args.batch:
                    rows.append(measure(kind, dim, side, batch, args.seconds, device))
                    print(table(rows)[-1], flush=True)
        figures.write(args.output, rows, table(rows), device=device.type)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def measure(kind: str, dim: int, side: int, batch: int, seconds: float, device: torch.device) -> dict[str, Any]:
    """Median seconds of each way, and the relative error of ours in the change that the adapter makes."""
    torch.manual_seed(0)
    eager = Mona(dim).to(device).eval()
    shake(eager)
    ours = copy.deepcopy(eager)
    assert ht.accelerate(ours).swapped
    torch.compiler.reset()
    ways = dict(zip(WAYS, (eager, compiled(copy.deepcopy(eager)), ours), strict=True))
    x = torch.randn(batch, side * side, dim, device=device)
    with torch.no_grad():
        expected, got = (ways[name](x, (side, side)) - x for name in ("eager", "ours"))
    make = _inference if kind == "forward" else _step
    calls = {name: make(way, x, (side, side)) for name, way in ways.items()}
    return {
        "pass": kind,
        "dim": dim,
        "side": side,
        "batch": batch,
        "error": float((got - expected).norm() / expected.norm()),
        "seconds": {name: timing.median for name, timing in interleave(calls, 1, device, seconds).items()},
    }


def compiled(module: nn.Module) -> Callable[..., Tensor]:
    """The module under torch.compile, for the shapes of its first call."""
    return torch.compile(module, dynamic=False)


def _inference(way: Callable[..., Tensor], x: Tensor, grid: tuple[int, int]) -> Call:
    def call() -> Tensor:
        with torch.no_grad():
            return way(x, grid)

    return call


def _step(way: Callable[..., Tensor], x: Tensor, grid: tuple[int, int]) -> Call:
    leaf, grad = x.clone().requires_grad_(), torch.randn_like(x)
    weights = [p for p in getattr(way, "_orig_mod", way).parameters()]

    def step() -> Sequence[Tensor]:
        return torch.autograd.grad(way(leaf, grid), (leaf, *weights), grad)

    return step


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The lines of a Markdown table of the figures, in milliseconds."""
    lines = ["| | images | eager | torch.compile | ht_kernels | over eager | over compile |"]
    lines.append("|---|--:|--:|--:|--:|--:|--:|")
    for row in rows:
        seconds = row["seconds"]
        cells = [f"{row['pass']}, width {row['dim']}, {row['side']}x{row['side']}", str(row["batch"])]
        cells += [milliseconds(seconds[name]) for name in WAYS]
        cells += [times(seconds[name] / seconds["ours"]) for name in WAYS[:2]]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
