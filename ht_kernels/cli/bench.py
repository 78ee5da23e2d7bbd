"""``ht-kernels bench``: published against ht_kernels, one adapter by stage, live latency, or two runs compared."""

from __future__ import annotations

import argparse
import importlib.util
import math
from pathlib import Path

from ht_kernels.bench.sizes import read_sizes
from ht_kernels.choices import FORMS, VARIANTS
from ht_kernels.errors import InputError
from ht_kernels.files import check_foreign, claim, read_whole
from ht_kernels.outputs import BENCH, SETTINGS

from . import config, outputs, terminal

_MOST_THREADS = 1024
HELP = "time the adapter, the heads and the model against the published way, or one adapter by stage; compare two runs"
EXAMPLE = "ht-kernels bench --quick --only adapter --output before"

_OF_SHAPE = {"grid": None, "variant": "hybrid", "spectral": None, "dtype": "fp32", "backend": None, "stages": False}
"""The options that only go with --shape, and their defaults."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--quick", action="store_true", help="one image per call, no torch.compile: half a minute")
    what.add_argument("--shape", metavar="B,N,D,C", help="one adapter of these sizes: images, tokens, widths")
    what.add_argument("--stream", action="store_true", help="the time from a frame of a live source to its overlay")
    what.add_argument(
        "--compare", nargs=2, type=Path, metavar=("A", "B"), help="two results.json: ratios of B to A with intervals"
    )
    one = parser.add_argument_group("one adapter")
    run = parser.add_argument_group("runtime")
    to = parser.add_argument_group("outputs")
    parser.add_argument("--only", choices=("adapter", "heads", "model"), help="one part instead of all three")
    one.add_argument("--grid", metavar="H,W", help="of --shape: the patch grid; other tokens are prefix tokens")
    one.add_argument("--variant", choices=VARIANTS, help="of --shape (default: hybrid)")
    one.add_argument("--spectral", choices=FORMS, help="of --shape: with a spectral filter")
    one.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), help="of --shape: of the tokens (default: fp32)")
    run.add_argument(
        "--backend", choices=("cuda", "cpu", "triton", "reference"), help="of --shape (default: the best that is here)"
    )
    one.add_argument("--stages", action="store_true", help="of --shape: the time of every stage, too")
    run.add_argument("--threads", type=int, metavar="N", help="of --shape and --stream (default: torch's)")
    run.add_argument(
        "--seconds", type=float, metavar="S", help="of each case, shape or size of frames (default: 10, quick 1)"
    )
    to.add_argument(
        "--output",
        type=Path,
        default=Path("ht-kernels-bench"),
        metavar="DIR",
        help="where results.json and chart.png go (default: %(default)s)",
    )
    outputs.add_overwrite(to)
    parser.set_defaults(**_OF_SHAPE)


def run(args: argparse.Namespace) -> int:
    _check(args)
    if args.compare:
        return _compare(*args.compare)
    seconds = args.seconds or (1.0 if args.quick else 10.0)
    measure = _shape if args.shape else _stream if args.stream else _comparison
    status = measure(args, seconds)
    config.write(args, args.output / SETTINGS)
    return status


def _check(args: argparse.Namespace) -> None:
    """Refuse options that do not go together or are out of range, before any work."""
    for name, default in _OF_SHAPE.items():
        if not args.shape and getattr(args, name) != default:
            raise InputError(f"--{name} was given without --shape, whose adapter it describes")
    alone = "--shape" if args.shape else "--stream" if args.stream else "--compare" if args.compare else None
    if args.only and alone:
        raise InputError(f"--only {args.only} was given with {alone}; it is for the comparison with the published way")
    if args.threads is not None and (args.compare or not alone):
        raise InputError("--threads is for --shape and --stream; set OMP_NUM_THREADS for the others")
    if args.seconds is not None and args.compare:
        raise InputError("--seconds was given with --compare, which measures nothing")
    for name in ("threads", "seconds"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"--{name} {value:g} was given, expected a number above 0")
    if args.threads is not None and args.threads > _MOST_THREADS:
        raise InputError(f"--threads {args.threads} was given, expected at most {_MOST_THREADS}")
    if args.shape:
        read_sizes(args.shape, args.grid, args.variant, args.spectral)
    for path in args.compare or ():
        if path.is_dir():
            raise InputError(f"{path} is a folder: name the results.json in it")
        read_whole(path, "the results")
    if not args.compare:
        from ht_kernels.bench.document import earlier_files

        claim(args.output, (*BENCH, SETTINGS), args.overwrite)
        check_foreign(args.output, BENCH, earlier_files(args.output))
        config.check_foreign(args, args.output / SETTINGS)


def _comparison(args: argparse.Namespace, seconds: float) -> int:
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("the chart needs matplotlib, which is not installed: pip install matplotlib")
    from ht_kernels.bench import report, runner
    from ht_kernels.bench.cases import IMPLEMENTATIONS, cases

    chosen = cases(args.only, batches=(1,) if args.quick else None)
    names = [name for name in IMPLEMENTATIONS if name != "compile" or not args.quick]
    with terminal.track() as watch:
        results, limits = runner.run(chosen, names, seconds, say=_say, watch=watch)
    print("\nMilliseconds per call, median:", *report.table(results), sep="\n")
    for path in report.write(results, limits, args.output):
        print(f"wrote {path}")
    return 0


def _shape(args: argparse.Namespace, seconds: float) -> int:
    from ht_kernels.bench import document, single
    from ht_kernels.bench.setting import read_setting

    setting = read_setting(args.shape, args.grid, args.variant, args.spectral, args.dtype, args.backend, args.threads)
    with terminal.enough_memory(f"--shape {args.shape}", "name fewer images or tokens, the first two numbers"):
        found = single.run(setting, seconds, args.stages, say=_say)
    print(f"backend {setting.backend} on {found['device']}, threads: {setting.threads}; milliseconds per call")
    print(*single.table(found), f"wrote {document.write(found, args.output)}", sep="\n")
    return 0


def _stream(args: argparse.Namespace, seconds: float) -> int:
    import torch

    from ht_kernels.bench import document, stream

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    with terminal.track() as watch:
        found = stream.run(stream.SIZES, seconds, say=_say, watch=watch)
    print("\nMilliseconds from frame to overlay:", *stream.table(found), sep="\n")
    print(f"wrote {document.write(found, args.output)}")
    return 0


def _compare(before: Path, after: Path) -> int:
    from ht_kernels.bench.compare import compare

    found = compare(before, after)
    print(f"a: {before}", f"b: {after}", *found.remarks, *found.table(), sep="\n")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)
