"""Compare training methods on real ultrasound images; see the package."""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from ht_kernels.errors import InputError

from . import report, runs, times
from .runs import Run, Setting


def main(argv: list[str] | None = None) -> int:
    """Run the comparison. Return exit status 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_data", description=__doc__)
    parser.add_argument("data", type=Path, metavar="DATA", help="a folder in the published layout")
    parser.add_argument("--dataset", default="BUSI", metavar="NAME", help="which of its data sets")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="for runs, tables and the chart")
    parser.add_argument("--epochs", type=int, default=12, help="passes over the training split (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=8, help="images of one step (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument(
        "--times", type=float, metavar="SECONDS", help="instead of runs: time each method, published and ours, so long"
    )
    args = parser.parse_args(argv)
    chosen = list(runs.order(args.seeds))
    setting = Setting(args.epochs, args.learning_rate, args.batch)
    try:
        if args.times is not None:
            times.measure(runs.read(args.data, args.dataset), setting, args.times, args.output)
            _report(args.output, chosen)
            return 0
        for number, row in enumerate(_each(chosen, setting, args), 1):
            print(
                f"{number} of {len(chosen)}: {row['ratio']} % {row['method']}, seed {row['seed']}: test Dice "
                f"{row['dice']:.3f}, validation Dice {row['val_dice']:.3f} in epoch {row['best_epoch']}",
                flush=True,
            )
            _report(args.output, chosen)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _report(output: Path, chosen: list[Run]) -> None:
    rows = runs.finished(output, chosen)
    if rows:
        report.write(rows, len(chosen), times.read(output), output)


def _each(chosen: list[Run], setting: Setting, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    work = functools.partial(_do, setting=setting, args=args)
    if args.jobs == 1:
        yield from map(work, chosen)
        return
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as workers:
        yield from workers.map(work, chosen)


def _do(run: Run, setting: Setting, args: argparse.Namespace) -> dict[str, Any]:
    return runs.do(run, setting, runs.read(args.data, args.dataset), args.output)


if __name__ == "__main__":
    sys.exit(main())
