"""Two results.json compared: intervals on made-up samples, what is said of other machines, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ht_kernels.bench import compare
from ht_kernels.bench.compare import NO_DIFFERENCE, ratio
from ht_kernels.cli import main
from ht_kernels.errors import InputError

SHAPE = {"batch": 2, "tokens": 10, "dtype": "fp32"}
MACHINE = {"cpu": {"model": "A", "threads": 2}, "gpus": [], "packages": {"torch": "2"}}


def samples(median: float, spread: float = 0.02, seed: int = 0, count: int = 60) -> np.ndarray:
    return median * (1 + spread * np.random.default_rng(seed).standard_normal(count))


def adapter(rows: Mapping[str, Sequence[float]], **changes: Any) -> dict[str, Any]:
    """A document of one adapter; a row's name may have a stage behind a colon."""
    named = [(name.partition(": "), each) for name, each in rows.items()]
    found = [{"call": call, "stage": stage or None, "each": list(each)} for (call, _, stage), each in named]
    return {"form": "adapter", "shape": SHAPE, "backend": "cpu", "environment": MACHINE, "rows": found, **changes}


def comparison(rows: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """A document of the comparison with the published way."""
    timings = {name: {"each": list(each)} for name, each in rows.items()}
    result = {"group": "adapter forward", "batch": 8, "implementations": timings}
    return {"form": "comparison", "results": [result], "environment": MACHINE}


def write(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


def compared(folder: Path, before: object, after: object) -> compare.Comparison:
    return compare.compare(write(folder / "a.json", before), write(folder / "b.json", after))


@pytest.mark.parametrize(
    "factor, verdict",
    [(1.5, "slower"), (1.05, "slower"), (0.7, "faster"), (1.0, NO_DIFFERENCE), (1.002, NO_DIFFERENCE)],
)
def test_verdicts(factor: float, verdict: str) -> None:
    found = ratio("forward", samples(2.0), samples(2.0 * factor, seed=1))
    assert found.verdict == verdict and found.low < found.ratio < found.high
    assert found.low < factor < found.high


def test_the_same_samples_and_constant_ones() -> None:
    same = ratio("forward", samples(1.0), samples(1.0))
    assert same.ratio == 1 and same.verdict == NO_DIFFERENCE
    constant = ratio("forward", np.full(5, 2.0), np.full(7, 3.0))
    assert (constant.ratio, constant.low, constant.high, constant.verdict) == (1.5, 1.5, 1.5, "slower")


def test_few_samples_give_wide_intervals() -> None:
    few, many = (ratio("", samples(1.0, 0.1, 2, n), samples(1.0, 0.1, 3, n)) for n in (6, 200))
    assert few.high - few.low > 2 * (many.high - many.low)


def test_neighbours_that_share_a_load_count_less() -> None:
    """The same samples shuffled carry more information, so their interval is narrower."""
    slow_and_fast = np.repeat(samples(1.0, 0.2, 4, 20), 10)
    shuffled = np.random.default_rng(0).permutation(slow_and_fast)
    together, apart = (ratio("", np.ones(5), s) for s in (slow_and_fast, shuffled))
    assert together.high - together.low > 1.3 * (apart.high - apart.low)


def test_both_forms(tmp_path: Path) -> None:
    found = compared(
        tmp_path,
        adapter({"forward": samples(1.0), "forward: down": samples(0.5), "only a": samples(1.0)}),
        adapter({"forward": samples(1.0, seed=1), "forward: down": samples(0.6), "only b": samples(1.0)}),
    )
    assert [(row.name, row.verdict) for row in found.rows] == [("forward", NO_DIFFERENCE), ("forward: down", "slower")]
    assert found.remarks == ["only one file has only a, only b"]
    found = compared(tmp_path, comparison({"ours": samples(2.0)}), comparison({"ours": samples(1.0)}))
    assert [(row.name, row.verdict) for row in found.rows] == [("adapter forward, B=8, ours", "faster")]
    assert found.remarks == [] and "faster" in found.table()[1]


def test_what_else_differs_is_said(tmp_path: Path) -> None:
    other = {**MACHINE, "cpu": {"model": "B", "threads": 2}}
    rows = {"forward": samples(1.0)}
    found = compared(tmp_path, adapter(rows), adapter(rows, environment=other, backend="reference", commit="c0ffee"))
    assert found.remarks[0].startswith("warning: the files are of different machines")
    assert found.remarks[1:] == ["CPU: a A, b B", "backend: a cpu, b reference", "commit: a None, b c0ffee"]


def test_rows_too_short_for_the_clock(tmp_path: Path) -> None:
    rows = {"forward": samples(1.0), "forward: wait": [0.0, 1e-9, 0.0]}
    found = compared(tmp_path, adapter(rows), adapter(rows))
    assert [row.name for row in found.rows] == ["forward"]
    assert found.remarks == ["too short for the clock: forward: wait"]


@pytest.mark.parametrize(
    "after, message",
    [
        (adapter({"forward": samples(1.0)}, shape={**SHAPE, "batch": 4}), "the same adapter: batch 2 and 4"),
        (comparison({"ours": samples(1.0)}), "is of the form adapter and .* of comparison"),
        (adapter({"backward": samples(1.0)}), "have no row in common"),
        ({"form": "stream"}, "has latencies of a stream"),
        ({"results": []}, "has something else; expected a results.json"),
        ([], "has something else"),
        ({"form": "adapter", "shape": SHAPE}, "is damaged: .* 'rows'"),
        ({"form": "adapter", "rows": []}, "is damaged: it does not say the adapter's shape"),
        (adapter({"forward": [1.0]}), "has no samples in seconds of 'forward'"),
        (adapter({"forward": [1.0, -1.0]}), "has no samples in seconds of 'forward'"),
    ],
)
def test_refusals(tmp_path: Path, after: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compared(tmp_path, adapter({"forward": samples(1.0)}), after)


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write(tmp_path / "a.json", adapter({"forward": samples(1.0)}))
    b = write(tmp_path / "b.json", adapter({"forward": samples(2.0)}))
    assert main(["bench", "--compare", str(a), str(b)]) == 0
    assert "slower" in capsys.readouterr().out
    a.write_text("{")
    assert main(["bench", "--compare", str(a), str(b)]) == 2
    assert "a.json is not a JSON file" in capsys.readouterr().err
    assert main(["bench", "--compare", str(tmp_path / "none.json"), str(b)]) == 2
    assert "cannot be read" in capsys.readouterr().err
