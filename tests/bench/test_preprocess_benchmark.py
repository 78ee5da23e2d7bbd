"""The benchmark of preprocessing, on small frames."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import preprocess

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


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf"])
def test_wrong_arguments_end_with_2(seconds: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as status:
        preprocess.main(["--seconds", seconds, "--output", str(tmp_path / "frames.json")])
    assert status.value.code == 2
