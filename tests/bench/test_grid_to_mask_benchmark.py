"""The benchmark of masks, on small frames."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import grid_to_mask

pytestmark = pytest.mark.usefixtures("one_thread")


def test_it_times_every_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(grid_to_mask, "SIZES", ((20, 30), (8, 9)))
    output = tmp_path / "masks.json"
    assert grid_to_mask.main(["--seconds", "0", "--output", str(output)]) == 0
    rows = json.loads(output.read_text())["rows"]
    assert [(row["height"], row["width"], row["classes"]) for row in rows] == [
        (height, width, classes) for height, width in ((20, 30), (8, 9)) for classes in (2, 4, 32)
    ]
    assert all(row[name] > 0 for row in rows for name in ("argmax", "classes_of", "ours", "ours_noise"))
    lines = output.with_suffix(".md").read_text().splitlines()
    assert len(lines) == 2 + 6 and lines[2].startswith("| 1 | 20x30 | 2 |") and lines[-1] in capsys.readouterr().out
    assert grid_to_mask.disks(4).argmax(1).unique().tolist() == [0, 1, 2, 3]
    assert grid_to_mask.main(["--seconds", "0", "--output", str(output / "below")]) == 2
