"""What benchmarks share: options, turns of several ways, and results as JSON with a table in Markdown beside it."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ht_kernels.environment import commit, describe
from ht_kernels.files import make_folder, write_whole

_LEAST = 3
"""Rounds of :func:`rounds`, at least."""


def options(module: str, about: str | None, seconds: float) -> argparse.ArgumentParser:
    """A parser with ``--seconds`` and ``--output`` for the benchmark in ``benchmarks/MODULE.py``.

    Args:
        module: its name.
        about: what it does, for ``--help``.
        seconds: to time each row, by default.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=about)
    parser.add_argument("--seconds", type=duration, default=seconds, help="to time each row (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="figures, in JSON")
    return parser


def options_on_data(module: str, about: str | None, output: str) -> argparse.ArgumentParser:
    """A parser with ``DATA``, ``--dataset``, ``--image-size`` and ``--output`` for the benchmark ``benchmarks.MODULE``.

    Args:
        module: its name.
        about: what it does, for ``--help``.
        output: what its output folder is for.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=about)
    parser.add_argument("data", type=Path, metavar="DATA", help="a folder in the published layout")
    parser.add_argument("--dataset", default="BUSI", metavar="NAME", help="which of its data sets")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help=output)
    return parser


def duration(text: str) -> float:
    """The seconds of an option, from 0 on.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} was given, expected a number of seconds from 0 on")
    return seconds


def rounds(ways: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """The milliseconds of each call of ways that take turns for so many seconds, and at least three times."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()  # memory is allocated, and caches are filled
    end, done = time.perf_counter() + seconds, 0
    while done < _LEAST or time.perf_counter() < end:
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(1e3 * (time.perf_counter() - start))
        done += 1
    return times


def write(path: Path, rows: Sequence[dict[str, Any]], table: Sequence[str], **facts: Any) -> None:
    """Write ``path`` (``*.json``) and a ``*.md`` file beside it. Each file appears complete or not at all.

    Args:
        path: the JSON file; its folder is made if missing.
        rows: the figures, as values that JSON can hold.
        table: the lines of the Markdown file.
        facts: further entries of the JSON document, in addition to the commit and the environment.

    Raises:
        InputError: a file cannot be written.
    """
    document = {"commit": commit(), **facts, "rows": rows, "environment": describe()}
    make_folder(path.parent)
    write_whole(path, json.dumps(document, indent=1).encode(), "the figures")
    write_whole(path.with_suffix(".md"), ("\n".join(table) + "\n").encode(), "the table")
