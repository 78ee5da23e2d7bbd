"""Compare training methods on real ultrasound images; see the package."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ht_kernels.errors import InputError

from . import data, pack, report, runs, times
from .methods import METHODS, PASSES, Setting, order


def main(argv: list[str] | None = None) -> int:
    """Run the study. Return exit status 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_data", description=__doc__)
    parser.add_argument("data", type=Path, metavar="DATA", help="a folder in the published layout, or a pack")
    parser.add_argument("--dataset", default="BUSI", metavar="NAME", help="which of its data sets")
    parser.add_argument("--task", default="segmentation", choices=tuple(data.TASKS))
    parser.add_argument("--backbone", default="timm/vit_small_patch14_dinov2", metavar="NAME", help="the vision tower")
    parser.add_argument("--tower", metavar="FILE", help="the tower's weights (default: a pack's, or random ones)")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="for runs, tables and charts")
    parser.add_argument("--epochs", type=int, default=14, help="passes over the training split (default: %(default)s)")
    parser.add_argument("--precision", default="no", help="mixed precision: no, bf16 or fp16")
    parser.add_argument("--only", nargs="+", choices=[m.name for m in METHODS], metavar="METHOD", help="these methods")
    parser.add_argument("--share", type=int, nargs="+", choices=tuple(PASSES), help="these shares, in percent")
    parser.add_argument("--seeds", type=int, help="of every method (default: 3 of the main methods, 1 of the others)")
    parser.add_argument(
        "--times", type=float, metavar="SECONDS", help="instead of runs: time each method, published and ours, so long"
    )
    args = parser.parse_args(argv)
    planned = list(order(args.task, args.seeds))
    chosen = [
        run
        for run in planned
        if (args.only is None or run.method.name in args.only) and (args.share is None or run.share in args.share)
    ]
    setting = Setting(args.task, args.backbone, args.image_size, args.epochs, args.precision)
    tower = args.tower or pack.tower_of(args.data)
    try:
        splits = data.read(args.data, args.dataset, args.task, args.image_size)
        if args.times is not None:
            times.measure(splits, setting, tower, args.times, args.output)
            report.write(args.output, planned)
            return 0
        for number, run in enumerate(chosen, 1):
            row = runs.do(run, setting, splits, tower, args.output)
            print(
                f"{number} of {len(chosen)}: {run.share} % {run.method.name}, seed {run.seed}: validation "
                f"{row['val_score']:.3f} in epoch {row['best_epoch']}; {report.line(row)}",
                flush=True,
            )
            report.write(args.output, planned)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
