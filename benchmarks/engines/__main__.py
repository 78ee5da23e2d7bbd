"""One model in every runtime that is installed: ``python -m benchmarks.engines --output DIR``.

The published computation and ours, in float32, bf16 and int8, each in a process of its own. They take turns of half a
second on the same frames, so that a machine that is slower one minute than the next is so for all of them. Agreement
with the first of them, the published computation in torch, stands beside the speed. With ``--busy`` each way is also
timed by itself while as many other programs keep cores busy. engines.json, engines.md and engines.png are written to
DIR.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import figures
from ht_kernels.bench.text import milliseconds, times
from ht_kernels.classes import classes_of
from ht_kernels.environment import version
from ht_kernels.errors import InputError
from ht_kernels.files import make_folder, write_whole
from ht_kernels.media.opening import open_file
from ht_kernels.media.preprocess import sample_frames
from ht_kernels.video.example import example_clip

from .chart import draw
from .turns import Worker, busy
from .ways import CALIBRATION, FRAMES, WAYS, Way, model

MODELS = ("timm/vit_tiny_patch16_224", "timm/vit_base_patch16_224")


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark. Return exit status 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engines", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where figures, table and chart go")
    parser.add_argument("--turns", type=int, default=20, help="of each way (default: %(default)s)")
    parser.add_argument(
        "--model",
        nargs="+",
        default=MODELS,
        metavar="NAME",
        help="backbones or shipped weights (default: ViT-Tiny and ViT-B)",
    )
    parser.add_argument(
        "--busy", type=int, default=0, metavar="N", help="also time each way beside N busy programs (default: none)"
    )
    parser.add_argument(
        "--only", default="", metavar="REGEX", help="ways whose name and precision it finds (default: all)"
    )
    args = parser.parse_args(argv)
    try:
        wanted = re.compile(args.only)
    except re.error as error:
        parser.error(f"--only {args.only!r} is no regular expression: {error}")
    ways = [way for way in WAYS if wanted.search(f"{way.name}, {way.precision}")]
    if not ways:
        parser.error(f"--only {args.only!r} finds none of {'; '.join(f'{way.name}, {way.precision}' for way in WAYS)}")
    if args.turns < 1 or args.busy < 0:
        parser.error(f"--turns must be at least 1 and --busy at least 0, got {args.turns} and {args.busy}")
    try:
        make_folder(args.output)
        rows = [row for name in args.model for row in measure(name, ways, args.turns, args.busy)]
        versions = {name: version(name) for name in ("torch", "onnxruntime", "onnxscript", "openvino", "nncf")}
        figures.write(
            args.output / "engines.json", rows, table(rows), threads=torch.get_num_threads(), versions=versions
        )
        write_whole(args.output / "engines.png", draw(rows), "the chart")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(table(rows)))
    return 0


def measure(name: str, ways: Sequence[Way], turns: int, others: int) -> list[dict[str, Any]]:
    """A row for each way of one model: seconds per frame, agreement with the first that ran, or why it did not run."""
    frames = sample_frames(open_file(example_clip()), model(name).tower.image_size, CALIBRATION + FRAMES)[:FRAMES]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        folder = Path(place)
        np.save(folder / "frames.npy", frames)
        workers: list[tuple[dict[str, Any], Worker]] = []
        expected = None
        for index, way in enumerate(ways):
            row = {"model": name, "way": way.name, "graph": way.graph, "precision": way.precision}
            rows.append(row)
            try:
                worker = _start(way, name, folder, index)
            except InputError as error:
                row["failure"] = str(error)
                print(f"{name}, {way.name}, {way.precision}: {error}", file=sys.stderr, flush=True)
                continue
            workers.append((row, stack.enter_context(worker)))
            logits = np.load(folder / f"{index}.npy")
            expected = logits if expected is None else expected
            row.update(_agreement(expected, logits), seconds=[])
        for turn in range(turns):
            for row, worker in workers if turn % 2 else reversed(workers):
                row["seconds"] += worker.turn()
        for row, worker in workers if others else ():
            with busy(others):
                row["busy_seconds"] = [second for _ in range(turns) for second in worker.turn()]
    return rows


def _start(way: Way, name: str, folder: Path, index: int) -> Worker:
    missing = way.missing()
    if missing:
        raise InputError(missing)
    return Worker(way, name, folder / "frames.npy", folder / f"{index}.npy")


def _agreement(expected: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """The largest error of a logit, relative to the largest logit, and the share of pixels with the same class."""
    classes = [classes_of(torch.from_numpy(logits)) for logits in (expected, found)]
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    return {"error": error, "agreement": float((classes[0] == classes[1]).float().mean())}


def quantile(seconds: list[float], share: float) -> float:
    """The time that so large a share of the calls does not exceed."""
    return float(np.quantile(seconds, share))


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of a Markdown table: milliseconds per frame, and how often faster than the published way in torch."""
    with_busy = any("busy_seconds" in row for row in rows)
    head = ["model", "way", "precision", "p25", "p50", "p99", "over published", "error of logits", "same class"]
    head += ["p50, busy"] if with_busy else []
    lines = [f"| {' | '.join(head)} |", "|---|---|---|" + "--:|" * (len(head) - 3)]
    first: dict[str, float] = {}
    for row in rows:
        cells = [row["model"], row["way"], row["precision"]]
        if "failure" in row:
            cells += [f"not run: {row['failure'][:80]}"] + [""] * (len(head) - 4)
        else:
            lower = quantile(row["seconds"], 0.25)
            published = first.setdefault(row["model"], lower)
            cells += [milliseconds(quantile(row["seconds"], share)) for share in (0.25, 0.5, 0.99)]
            cells += [times(published / lower), f"{row['error']:.0e}", f"{100 * row['agreement']:.2f} %"]
            if with_busy:
                cells.append(milliseconds(quantile(row["busy_seconds"], 0.5)))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
