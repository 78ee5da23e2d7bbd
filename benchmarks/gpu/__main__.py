"""Build, check and time everything on the current GPU; see the package."""

from __future__ import annotations

import argparse
import functools
import math
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .plan import BUDGET, NAMES


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark with the arguments ``argv``, by default those of the command line; return the exit status.

    The status is 0; 1 if a result is wrong or a section failed, was cut off or is missing; 2 for bad input; 130 if
    interrupted.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="for results; what is missing there is done"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        action="extend",
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
    args = parser.parse_args(argv)
    if not 0 < args.budget < math.inf:
        parser.error(f"argument --budget: must be a number of seconds above 0, got {args.budget:g}")
    if not args.dry_run:
        import torch

        if not torch.cuda.is_available():
            print(
                "benchmarks.gpu needs an NVIDIA GPU, and torch sees none here; --dry-run does the same on the CPU",
                file=sys.stderr,
            )
            return 2
    from ht_kernels.errors import InputError

    from . import report, runner

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # ends the running section too
    start = time.monotonic()
    try:
        documents = runner.run(args.output, args.only, args.budget, args.dry_run, functools.partial(print, flush=True))
    except OSError as error:
        parser.error(f"argument --output: {args.output} cannot hold results: {error.strerror}")
    except InputError as error:
        parser.error(f"argument --output: {error}")
    except KeyboardInterrupt:
        print(f"interrupted; the same call goes on with what is missing in {args.output}", file=sys.stderr)
        return 130
    print("\n".join(["", *report.table(documents)]))
    print(f"\n{time.monotonic() - start:.0f} s in all; everything is in {args.output}")
    return 1 if report.wrong(documents) else 0


if __name__ == "__main__":
    sys.exit(main())
