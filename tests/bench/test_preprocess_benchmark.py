"""The benchmark of preprocessing, on small frames."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import figures, grid_to_mask, mona, preprocess
from helpers import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")


def test_it_times_both_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preprocess, "FRAMES", ((20, 30), (8, 9, 3)))
    output = tmp_path / "frames.json"
    assert preprocess.main(["--seconds", "0", "--output", str(output)]) == 0
    rows = json.loads(output.read_text())["rows"]
    assert [(row["height"], row["width"], row["channels"]) for row in rows] == [(20, 30, 1), (8, 9, 3)]
    assert all(row[name] > 0 for row in rows for name in ("pillow", "ours"))
    lines = output.with_suffix(".md").read_text().splitlines()
    assert len(lines) == 2 + 2 and lines[2].startswith("| 1 | 20x30 | gray |") and lines[-1] in capsys.readouterr().out
    assert preprocess.main(["--seconds", "0", "--output", str(output / "below")]) == 2


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "soon"])
@pytest.mark.parametrize("program", [preprocess, grid_to_mask, mona])
def test_wrong_arguments_end_with_2(
    program: ModuleType, seconds: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as status:
        program.main(["--seconds", seconds, "--output", str(tmp_path / "frames.json")])
    assert status.value.code == 2
    assert f"--seconds: {seconds!r} was given, expected a number of seconds from 0 on" in capsys.readouterr().err


def test_ways_take_turns_three_times_at_least() -> None:
    order: list[str] = []
    times = figures.rounds({name: lambda name=name: order.append(name) for name in "ab"}, 0.0)
    assert order == list("abababab") and [len(values) for values in times.values()] == [3, 3]


def test_every_program_has_help() -> None:
    """None starts to measure when it is asked what it does."""
    files = [path for path in (ROOT / "benchmarks").rglob("*.py") if '__name__ == "__main__"' in path.read_text()]
    assert len(files) > 15
    assert [path.name for path in files if not re.search(r"parse_args\(|len\(sys\.argv\)", path.read_text())] == []
    command = [sys.executable, "-m", "benchmarks.engines.worker", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: python -m benchmarks.engines.worker")
