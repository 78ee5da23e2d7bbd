"""The benchmark of Mona in Swin blocks, on small grids and without a compiler."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import mona

pytestmark = pytest.mark.usefixtures("one_thread")


def test_it_times_three_ways_in_two_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mona, "SIZES", ((16, 4), (32, 2)))
    monkeypatch.setattr(mona, "compiled", lambda module: module)
    output = tmp_path / "mona.json"
    assert mona.main(["--batch", "1", "3", "--seconds", "0", "--output", str(output)]) == 0
    rows = json.loads(output.read_text())["rows"]
    assert len(rows) == 8 and {row["pass"] for row in rows} == {"forward", "forward + backward"}
    assert all(row["seconds"].keys() == {"eager", "compile", "ours"} for row in rows)
    assert all(min(row["seconds"].values()) > 0 and row["error"] < 1e-5 for row in rows)
    lines = output.with_suffix(".md").read_text().splitlines()
    assert len(lines) == 2 + 8 and lines[2].startswith("| forward, width 16, 4x4 | 1 |")
    assert lines[-1] in capsys.readouterr().out
    assert mona.main(["--seconds", "0", "--output", str(tmp_path / "mona.json" / "below")]) == 2
