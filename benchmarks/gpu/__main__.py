"""Build, check and time everything on the GPU at hand; see the package."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from .plan import BUDGET, NAMES


def main() -> int:
    """Exit status 0; 1 when something computed wrong, failed, was cut off or is missing; 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="for results; what is missing there is done"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        choices=NAMES,
        metavar="SECTION",
        help=f"do these, from their beginning: {', '.join(NAMES)}",
    )
    parser.add_argument(
        "--budget", type=float, default=BUDGET, metavar="SECONDS", help="for everything (default: %(default).0f)"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="on the CPU: Triton's interpreter, emulated CUDA kernels, the smallest shapes",
    )
    args = parser.parse_args()
    if args.budget <= 0:
        parser.error(f"argument --budget: must be above 0, got {args.budget:g}")
    if args.output.exists() and not args.output.is_dir():
        parser.error(f"argument --output: {args.output} is a file, and results need a folder")
    if not args.dry_run:
        import torch

        if not torch.cuda.is_available():
            print(
                "benchmarks.gpu needs an NVIDIA GPU, and torch sees none here; --dry-run does the same on the CPU",
                file=sys.stderr,
            )
            return 2
    from . import report, runner

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # so that what runs is ended, too
    start = time.monotonic()
    documents = runner.run(args.output, args.only, args.budget, args.dry_run, lambda words: print(words, flush=True))
    print("\n".join(["", *report.table(documents)]))
    print(f"\n{time.monotonic() - start:.0f} s in all; everything is in {args.output}")
    return 1 if report.wrong(documents) else 0


if __name__ == "__main__":
    sys.exit(main())
