"""Two checkouts compared, before and after a change: ``python -m benchmarks.two_checkouts BEFORE AFTER``.

Each has a process of its own, with its compiled core built in place (``pip install -e .``). They take turns, a quarter
of a second each, because a machine that others share is slower one minute than the next; the ratio of two turns beside
each other survives that. Printed are lower quartiles, and the median of the ratios.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TURN = 0.25
"""Seconds of one turn."""
GRID = (14, 14)


def adapter(batch: int, train: bool = False, **options: Any) -> Callable[[], object]:
    """An adapter of ViT-B/16, forward, or forward and backward."""
    import torch

    import ht_kernels as ht

    dtype = options.pop("dtype", "float32")
    module = ht.HTAdapter(768, dropout=0.0, grid=GRID if "spectral" in options else None, **options).train(train)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    x = torch.randn(batch, 197, 768, dtype=getattr(torch, dtype))
    grad = torch.randn_like(x)

    @torch.no_grad()
    def forward() -> object:
        return module(x, GRID)

    def forward_and_backward() -> None:
        module.zero_grad()
        module(x.detach().requires_grad_(), GRID).backward(grad)

    return forward_and_backward if train else forward


def model(batch: int, backbone: str, train: bool = False) -> Callable[[], object]:
    """A segmentation model: folded, on frames; or a training step without the optimizer."""
    import torch

    import ht_kernels as ht

    made = ht.HTCLIP(backbone=backbone, task="segmentation", num_classes=2).train(train)
    if train:
        images = torch.rand(batch, 3, 224, 224)

        def step() -> None:
            made.zero_grad()
            made(images).square().mean().backward()

        return step
    folded = ht.fold(made)
    frames = torch.randint(0, 256, (batch, 1, 224, 224), dtype=torch.uint8)

    @torch.no_grad()
    def infer() -> object:
        return folded(frames)

    return infer


TINY, BASE = "timm/vit_tiny_patch16_224", "timm/vit_base_patch16_224"
CALLS: dict[str, Callable[[], Callable[[], object]]] = {
    "adapter, 1 image": lambda: adapter(1),
    "adapter, 8 images": lambda: adapter(8),
    "adapter, 32 images": lambda: adapter(32),
    "adapter, bfloat16, 1 image": lambda: adapter(1, dtype="bfloat16"),
    "spectral adapter, 1 image": lambda: adapter(1, spectral="full"),
    "spectral adapter, 8 images": lambda: adapter(8, spectral="full"),
    "adapter, forward + backward, 1 image": lambda: adapter(1, train=True),
    "adapter, forward + backward, 8 images": lambda: adapter(8, train=True),
    "adapter, forward + backward, 32 images": lambda: adapter(32, train=True),
    "spectral adapter, forward + backward, 8 images": lambda: adapter(8, train=True, spectral="full"),
    "folded ViT-Tiny/16, 1 image": lambda: model(1, TINY),
    "folded ViT-Tiny/16, 8 images": lambda: model(8, TINY),
    "folded ViT-B/16, 1 image": lambda: model(1, BASE),
    "training step of ViT-Tiny/16, 8 images": lambda: model(8, TINY, train=True),
}


def work(checkout: str) -> None:
    """Answer each line on stdin, a call and how many seconds to repeat it, with the seconds that it took each time."""
    sys.path.insert(0, checkout)
    import ht_kernels

    assert Path(ht_kernels.__file__).is_relative_to(checkout), ht_kernels.__file__
    made: tuple[str, Callable[[], object]] | None = None
    for line in sys.stdin:
        name, seconds = json.loads(line)
        if made is None or made[0] != name:
            made = name, CALLS[name]()
            for _ in range(3):
                made[1]()
        times, end = [], time.perf_counter() + seconds
        while len(times) < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            made[1]()
            times.append(time.perf_counter() - start)
        print(json.dumps(times), flush=True)


def quartile(times: list[float]) -> float:
    return sorted(times)[len(times) // 4]


def main() -> None:
    parser = argparse.ArgumentParser(description="time the calls of two checkouts in turn")
    parser.add_argument("checkouts", nargs=2, type=Path, metavar="CHECKOUT", help="before and after, built in place")
    parser.add_argument("--only", default="", help="calls whose name this regular expression finds")
    parser.add_argument("--turns", type=int, default=10, help="of each checkout and call (default 10)")
    args = parser.parse_args()
    checkouts = [path.resolve() for path in args.checkouts]
    for path in checkouts:
        if not list((path / "ht_kernels").glob("_C*.so")):
            parser.error(f"{path} has no compiled core; run pip install -e . there first")
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, "--work", str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for path in checkouts
    ]

    def ask(worker: subprocess.Popen[str], name: str, seconds: float) -> list[float]:
        assert worker.stdin is not None and worker.stdout is not None
        worker.stdin.write(json.dumps([name, seconds]) + "\n")
        worker.stdin.flush()
        times: list[float] = json.loads(worker.stdout.readline())
        return times

    print("| call | before, ms | after, ms | after / before |\n|---|--:|--:|--:|")
    for name in filter(re.compile(args.only).search, CALLS):
        found: list[list[float]] = [[], []]
        ratios = []
        for worker in workers:
            ask(worker, name, 0)
        for turn in range(args.turns):
            both = {i: ask(workers[i], name, TURN) for i in ((0, 1) if turn % 2 else (1, 0))}
            ratios.append(quartile(both[1]) / quartile(both[0]))
            for i in (0, 1):
                found[i] += both[i]
        before, after = (1e3 * quartile(times) for times in found)
        print(f"| {name} | {before:.3g} | {after:.3g} | {sorted(ratios)[len(ratios) // 2]:.2f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2])
    else:
        main()
