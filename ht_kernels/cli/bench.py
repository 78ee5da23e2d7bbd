"""``ht-kernels bench``: published against ht_kernels on this machine, in one run, with a chart."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from ht_kernels.errors import InputError

HELP = "time the adapter, the heads and the model against the published way, and draw a chart"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="one image per call, no torch.compile: half a minute")
    parser.add_argument("--only", choices=("adapter", "heads", "model"), help="one part instead of all three")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("ht-kernels-bench"),
        metavar="DIR",
        help="where results.json and chart.png go (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("the chart needs matplotlib, which is not installed: pip install matplotlib")
    if args.output.exists() and not args.output.is_dir():
        raise InputError(f"--output {args.output} is a file, expected a directory")
    from ht_kernels.bench import report, runner
    from ht_kernels.bench.cases import IMPLEMENTATIONS, cases

    chosen = cases(args.only, batches=(1,) if args.quick else None)
    names = [name for name in IMPLEMENTATIONS if name != "compile" or not args.quick]
    results, limits = runner.run(chosen, names, 1.0 if args.quick else 10.0, say=lambda line: print(line, flush=True))
    print("\nMilliseconds per call, median:", *report.table(results), sep="\n")
    for path in report.write(results, limits, args.output):
        print(f"wrote {path}")
    return 0
