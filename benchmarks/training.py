"""Training steps, published against ours: images per second, peak memory, and the losses from the same weights.

``python -m benchmarks.training --output training.json`` writes the figures, and a table beside them in Markdown. A step
consists of forward, the published loss, backward and AdamW, in float32. Adapters and heads are trained. Steps are timed
in turn in one process; memory is measured in a separate process for each model.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ht_kernels.bench.text import times
from ht_kernels.clip import HTCLIP
from ht_kernels.errors import InputError
from ht_kernels.published import PublishedHTCLIP
from ht_kernels.train import prepare, simulate_examples
from ht_kernels.train.losses import loss_for
from ht_kernels.weights import PHANTOM

from . import figures
from .gpu.measure import Call, interleave

SHIPPED = "shipped weights"
BACKBONE = "timm/vit_tiny_patch16_224"

_BATCHES = 4
"""The number of batches that are used over and over to follow the loss."""

Batches = Sequence[tuple[Tensor, Tensor]]


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark. Return exit status 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--batch", type=int, default=8, help="images of a step (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=figures.duration, default=60, help="to time each model (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=200, help="to follow the loss (default: %(default)s)")
    parser.add_argument("--backbone", nargs="+", metavar="NAME", help=f"instead of {BACKBONE} and the {SHIPPED}")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="figures, in JSON")
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows: list[dict[str, Any]] = []
    try:
        for name in args.backbone or (BACKBONE, SHIPPED):
            rows.append(measure(name, args.batch, args.seconds, args.steps, device))
            print("\n".join(table(rows)), flush=True)
        figures.write(args.output, rows, table(rows), device=device.type)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def measure(name: str, batch: int, seconds: float, steps: int, device: torch.device) -> dict[str, Any]:
    """Measure one model. ``name`` is the name of a backbone or :data:`SHIPPED`."""
    both = pair(build(name), device)
    batches = phantoms(batch, device)
    seconds_per_step = speed(both, batches[0], seconds, device)
    memory = {kind: _memory(name, kind, batch, device) for kind in both}
    both = pair(build(name), device)
    losses = {kind: follow(model, batches, steps) for kind, model in both.items()}
    apart = [abs(a - b) for a, b in zip(*losses.values(), strict=True)]
    return {
        "model": name,
        "batch": batch,
        "images_per_second": {kind: batch / value for kind, value in seconds_per_step.items()},
        "peak_bytes": memory,
        "losses": losses,
        "largest_difference": max(apart),
    }


def build(name: str) -> HTCLIP:
    """Make a model for training. Its weights are the same every time."""
    torch.manual_seed(0)
    model = HTCLIP.from_checkpoint(PHANTOM) if name == SHIPPED else HTCLIP(name)
    prepare(model, "ht")
    return model.train()


def pair(model: HTCLIP, device: torch.device) -> dict[str, nn.Module]:
    """The published model and ours, with the same weights."""
    return {"published": PublishedHTCLIP.like(model).to(device), "ours": model.to(device)}


def phantoms(batch: int, device: torch.device) -> Batches:
    """Make batches of simulated images (B, 3, S, S) and their masks (B, S, S)."""
    examples = simulate_examples(_BATCHES * batch, seed=0)
    images = (examples.images.float() / 255).expand(-1, 3, -1, -1)
    halves = zip(images.split(batch), examples.targets.long().split(batch), strict=True)
    return [(images.to(device).contiguous(), masks.to(device)) for images, masks in halves]


def speed(
    models: dict[str, nn.Module],
    batch: tuple[Tensor, Tensor],
    seconds: float,
    device: torch.device,
    task: str = "segmentation",
) -> dict[str, float]:
    """Time steps of the models in turn, and return the median seconds of a step of each model."""
    calls = {kind: _stepper(model, batch, task) for kind, model in models.items()}
    timings = interleave(calls, 1, device, seconds)
    return {kind: timing.median for kind, timing in timings.items()}


def follow(model: nn.Module, batches: Batches, steps: int) -> list[float]:
    """Train without dropout, and return the loss of every step."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    optimizer = _optimizer(model)
    return [float(_step(model, optimizer, *batches[step % len(batches)])) for step in range(steps)]


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The lines of a Markdown table of the figures."""
    lines = ["| | images/s, published | ours | | peak memory, published | ours | | loss apart by at most, of |"]
    lines += ["|---|--:|--:|--:|--:|--:|--:|--:|"]
    for row in rows:
        theirs, ours = (row["images_per_second"][kind] for kind in ("published", "ours"))
        more, less = (row["peak_bytes"][kind] for kind in ("published", "ours"))
        losses = row["losses"]["published"]
        cells = [f"{row['model']}, B={row['batch']}", f"{theirs:.1f}", f"{ours:.1f}", times(ours / theirs)]
        cells += [f"{more / 2**20:.0f} MiB", f"{less / 2**20:.0f} MiB", f"{100 * less / more:.0f}%"]
        cells.append(f"{row['largest_difference']:.1e} in {len(losses)} steps from {losses[0]:.2f} to {losses[-1]:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4, (0.9, 0.95), weight_decay=0.01)


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, targets: Tensor, task: str = "segmentation"
) -> Tensor:
    loss = loss_for(task, 2)(model(images), targets)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def _stepper(model: nn.Module, batch: tuple[Tensor, Tensor], task: str = "segmentation") -> Call:
    optimizer = _optimizer(model)
    return lambda: _step(model, optimizer, *batch, task)


def _memory(name: str, kind: str, batch: int, device: torch.device) -> int:
    """The peak memory, in bytes, that training steps add to a new process that already holds the model."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        return fresh.submit(_peak, name, kind, batch, device).result()


def _peak(name: str, kind: str, batch: int, device: torch.device) -> int:
    model = pair(build(name), device)[kind]
    batches = phantoms(batch, device)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if cuda else _resident("VmRSS")
    step = _stepper(model, batches[0])
    for _ in range(3):
        step()
    return (torch.cuda.max_memory_allocated() if cuda else _resident("VmHWM")) - before


def _resident(which: str) -> int:
    """The resident memory of this process in bytes: ``VmRSS`` is the current value, ``VmHWM`` the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{which}:"))


if __name__ == "__main__":
    sys.exit(main())
