"""The benchmark: fair order, honest statistics, whole files. No timing is asserted."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from ht_kernels import cli
from ht_kernels.bench import chart, measure, report, runner
from ht_kernels.bench.cases import Case, cases
from ht_kernels.bench.compare import compare
from ht_kernels.cli import bench
from ht_kernels.errors import InputError

LIMITS = runner.Limits(bandwidth=1e10, flops=1e11)


def parse(*arguments: str) -> argparse.Namespace:
    return cli.parse(["bench", *arguments])


def tiny(error: float = 0.0) -> Case:
    """A case whose implementations add and multiply ones; ``error`` spoils ours."""

    def build(batch: int, name: str) -> measure.Call:
        offset = error if name == "ours" else 0.0
        return lambda: torch.ones(batch, 4) + offset

    return Case("adapter", "tiny", 3, build, bytes=96, flops=1000)


def test_calls_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SAMPLE_SECONDS", 0.0)
    order: list[str] = []
    timings = measure.interleave({name: lambda name=name: order.append(name) for name in "abc"}, seconds=0.0)
    warm_up, timed = order[:6], order[6:]
    assert warm_up == list("aabbcc")
    assert timed == list("abc") * measure.MIN_SAMPLES
    assert {(t.samples, t.calls) for t in timings.values()} == {(measure.MIN_SAMPLES, 1)}


def test_a_short_call_is_made_once_more_before_each_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_time", lambda call, repeats, on_gpu: [call() for _ in range(repeats)] and 0.003)
    made: list[int] = []
    timing = measure.interleave({"a": lambda: made.append(1)}, seconds=0.0)["a"]
    assert (timing.samples, timing.calls) == (measure.MIN_SAMPLES, 2)
    assert len(made) == 2 + measure.MIN_SAMPLES * (1 + 2)


def test_median_and_quartiles(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = iter([1.0, 5.0, 1.0, 3.0, 2.0, 4.0])  # warm-up, then five samples
    monkeypatch.setattr(measure, "_time", lambda call, repeats, on_gpu: next(durations))
    timing = measure.interleave({"a": lambda: None}, seconds=0.0)["a"]
    assert (timing.lower, timing.median, timing.upper) == (2.0, 3.0, 4.0)


def test_only_calls_on_a_gpu_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample on a CPU holds nothing but the calls."""
    waits: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(1))
    measure.interleave({"a": lambda: None}, seconds=0.0)
    assert not waits
    measure.interleave({"a": lambda: None}, seconds=0.0, device="cuda")
    assert len(waits) == 1 + measure.MIN_SAMPLES


def test_floors_follow_from_the_limits() -> None:
    floors = LIMITS.floors(tiny())
    assert floors == {"memory floor": 96 / 1e10, "float32 arithmetic floor": 1000 / 1e11}


def test_adapter_floor_is_one_read_and_one_write() -> None:
    forward, _, _ = cases("adapter", batches=(8,))
    assert forward.bytes == 2 * 8 * 197 * 768 * 4


def test_a_wrong_result_is_not_timed() -> None:
    with pytest.raises(RuntimeError, match="tiny, B=3: ht_kernels differs from eager by"):
        runner.run_case(tiny(error=1e-3), ("eager", "ours"), 0.0, LIMITS)


def test_files_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = runner.run_case(tiny(), ("eager", "ours"), 0.0, LIMITS)
    written = report.write([result], LIMITS, tmp_path)
    assert [path.name for path in written] == ["results.json", "chart.png"]
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "chart.png"}
    before = (tmp_path / "results.json").read_bytes()

    def fail(*_: object) -> bytes:
        raise OSError("no space left on device")

    monkeypatch.setattr(chart, "draw", fail)
    with pytest.raises(OSError, match="no space"):
        report.write([], LIMITS, tmp_path)
    assert (tmp_path / "results.json").read_bytes() == before


def test_bars_are_shares_of_the_published_time_from_zero_on() -> None:
    timing = {name: measure.Timing(s, 0.9 * s, 1.1 * s, 5, 1, ()) for name, s in (("eager", 0.004), ("ours", 0.001))}
    results = [runner.Result(tiny(), timing, {}, LIMITS.floors(tiny()))]
    axis = Figure().subplots()
    chart._panel(axis, results)
    assert axis.get_yscale() == "linear" and axis.get_ylim()[0] == 0
    assert [bar.get_height() for bar in axis.patches] == pytest.approx([1, 0.25])
    assert [text.get_text() for text in axis.texts] == ["4.00 ms", "1.00 ms"]
    (memory,), (arithmetic,) = ([line[0, 1] for line in lines.get_segments()] for lines in axis.collections[-2:])
    assert memory == pytest.approx(96 / 1e10 / 0.004) and arithmetic == pytest.approx(1000 / 1e11 / 0.004)


def test_quick_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MAX_SAMPLES", measure.MIN_SAMPLES)
    monkeypatch.setattr(measure, "SAMPLE_SECONDS", 0.0)
    monkeypatch.setattr(measure, "_fastest", lambda call: measure._time(call, 1))
    assert bench.run(parse("--quick", "--only", "adapter", "--output", str(tmp_path))) == 0
    document = json.loads((tmp_path / "results.json").read_text())
    assert {(r["group"], r["batch"]) for r in document["results"]} == {
        ("adapter forward", 1),
        ("adapter forward + backward", 1),
        ("spectral adapter forward", 1),
    }
    for result in document["results"]:
        assert set(result["implementations"]) == {"eager", "ours"}
        for timing in result["implementations"].values():
            assert 0 < timing["lower"] <= timing["median"] <= timing["upper"]
    assert document["environment"]["cpu"]["threads"] == torch.get_num_threads()
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
    rows = re.findall(r"adapter forward(?: \+ backward)?, B=1 .*x", capsys.readouterr().out)
    assert len(rows) == 3
    compared = compare(tmp_path / "results.json", tmp_path / "results.json")
    assert [row.ratio for row in compared.rows] == [1.0] * 6 and compared.remarks == []


def test_output_must_be_a_directory(tmp_path: Path) -> None:
    file = tmp_path / "taken"
    file.write_text("mine")
    with pytest.raises(InputError, match="is a file, expected a folder"):
        bench.run(parse("--output", str(file)))
    assert file.read_text() == "mine"
