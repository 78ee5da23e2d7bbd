"""Two results.json of ``ht-kernels bench`` compared, row by row, with intervals.

The interval of a ratio of medians is that of the percentile bootstrap. Samples beside each other share the load of the
moment, so blocks of neighbours are drawn, not single samples: the circular block bootstrap of D. N. Politis and
J. P. Romano, "A circular block-resampling procedure for stationary data" (1992). An interval holds the noise within the
two runs; it does not know whether the machine was slower in one of them, which the rows that time something else than
ht_kernels show.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ht_kernels.errors import InputError
from ht_kernels.files import read_whole

from .single import label
from .text import aligned, milliseconds

RESAMPLES = 4000
CONFIDENCE = 95
NO_DIFFERENCE = "no difference beyond noise"


@dataclass(frozen=True)
class Ratio:
    """The medians of a row in two files in seconds, and their ratio with its interval; above 1 the second is slower."""

    name: str
    before: float
    after: float
    ratio: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        if self.low <= 1 <= self.high:
            return NO_DIFFERENCE
        return "slower" if self.ratio > 1 else "faster"


@dataclass(frozen=True)
class Comparison:
    """Every row that both files have, and sentences about what else differs between them."""

    rows: list[Ratio]
    remarks: list[str]

    def table(self) -> list[str]:
        """The rows as aligned lines of text."""
        lines = [["", "a, ms", "b, ms", "b / a", f"{CONFIDENCE} % interval", "b is"]]
        for row in self.rows:
            interval = f"{row.low:.3f} to {row.high:.3f}"
            medians = milliseconds(row.before), milliseconds(row.after)
            lines.append([row.name, *medians, f"{row.ratio:.3f}", interval, row.verdict])
        return aligned(lines)


def compare(before: Path, after: Path) -> Comparison:
    """Compare two files, of the comparison with the published way or of one adapter.

    Raises:
        InputError: a file is no results.json with samples, or the two do not measure the same.
    """
    a, b = _read(before), _read(after)
    if a["form"] != b["form"]:
        raise InputError(f"{before} is of the form {a['form']} and {after} of {b['form']}; expected two of the same")
    if a["form"] == "adapter" and a["shape"] != b["shape"]:
        names = dict.fromkeys((*a["shape"], *b["shape"]))
        differing = [name for name in names if a["shape"].get(name) != b["shape"].get(name)]
        words = ", ".join(f"{name} {a['shape'].get(name)} and {b['shape'].get(name)}" for name in differing)
        raise InputError(f"{before} and {after} do not measure the same adapter: {words}; measure the same one twice")
    ours, theirs = _samples(a, before), _samples(b, after)
    both = [name for name in ours if name in theirs]
    if not both:
        raise InputError(f"{before} and {after} have no row in common")
    remarks = _remarks(a, b)
    if alone := [name for name in (*ours, *theirs) if name not in both]:
        remarks.append(f"only one file has {', '.join(alone)}")
    if short := [name for name in both if not (ours[name].all() and theirs[name].all())]:
        remarks.append(f"too short for the clock: {', '.join(short)}")
    return Comparison([ratio(name, ours[name], theirs[name]) for name in both if name not in short], remarks)


def ratio(name: str, before: NDArray[np.float64], after: NDArray[np.float64]) -> Ratio:
    """The ratio of the medians of two series of samples, ``after`` over ``before``, with its interval."""
    medians = float(np.median(before)), float(np.median(after))
    generator = np.random.default_rng(0)
    ratios = _medians(after, generator) / _medians(before, generator)
    low, high = np.percentile(ratios, (50 - CONFIDENCE / 2, 50 + CONFIDENCE / 2))
    return Ratio(name, *medians, medians[1] / medians[0], float(low), float(high))


def _medians(samples: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """The medians of ``RESAMPLES`` series of as many samples, of blocks drawn with replacement."""
    count = len(samples)
    length = round(count ** (1 / 3))
    starts = generator.integers(count, size=(RESAMPLES, -(-count // length), 1))
    drawn = samples[(starts + np.arange(length)) % count].reshape(RESAMPLES, -1)[:, :count]
    return np.asarray(np.median(drawn, axis=1))


def _read(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the results.json in it")
    try:
        document = json.loads(read_whole(path, "the results"))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a JSON file: {error}") from error
    form = document.get("form") if isinstance(document, dict) else None
    if form not in ("comparison", "adapter"):
        found = "latencies of a stream, which have no samples" if form == "stream" else "something else"
        raise InputError(
            f"{path} has {found}; expected a results.json of ht-kernels bench with or without --shape, of this version"
        )
    if form == "adapter" and not isinstance(document.get("shape"), dict):
        raise InputError(f"{path} is damaged: it does not say the adapter's shape; run the benchmark again")
    return dict(document)


def _samples(document: dict[str, Any], path: Path) -> dict[str, NDArray[np.float64]]:
    """The samples of every row by its name."""
    found: dict[str, Any] = {}
    try:
        if document["form"] == "adapter":
            for row in document["rows"]:
                found[label(row)] = row["each"]
        else:
            for result in document["results"]:
                for name, timing in result["implementations"].items():
                    found[f"{result['group']}, B={result['batch']}, {name}"] = timing["each"]
        arrays = {name: np.asarray(values, dtype=np.float64) for name, values in found.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged: a row lacks {error}; run the benchmark again") from error
    for name, values in arrays.items():
        if values.ndim != 1 or len(values) < 2 or not (np.isfinite(values) & (values >= 0)).all():
            raise InputError(f"{path} has no samples in seconds of '{name}'; run the benchmark again")
    return arrays


def _remarks(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Sentences about the machine, the software and the setting, where they differ."""
    first, second = _facts(a), _facts(b)
    remarks = [f"{what}: a {first[what]}, b {second[what]}" for what in first if first[what] != second[what]]
    if any(first[what] != second[what] for what in ("CPU", "GPUs")):
        remarks.insert(0, "warning: the files are of different machines, so the ratios compare machines, too")
    return remarks


def _facts(document: dict[str, Any]) -> dict[str, Any]:
    """What may differ between two files that are compared, and is said if it does."""
    return {
        "CPU": _environment(document, "cpu", "model"),
        "GPUs": [gpu["name"] for gpu in _environment(document, "gpus") or []],
        "device": document.get("device"),
        "backend": document.get("backend"),
        "threads": document.get("threads", _environment(document, "cpu", "threads")),
        "torch": _environment(document, "packages", "torch"),
        "commit": document.get("commit"),
    }


def _environment(document: dict[str, Any], *names: str) -> Any:
    value: Any = document.get("environment")
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value
