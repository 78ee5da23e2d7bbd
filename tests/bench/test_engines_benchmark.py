"""The ladder of engines, with two ways on the smallest model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.engines import __main__ as engines
from benchmarks.engines import ways
from benchmarks.engines.turns import Worker
from ht_kernels.errors import InputError


def test_it_times_ways_in_turn_and_beside_busy_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "phantom", "--only", "torch, fp32|ours, ONNX Runtime, fp32", "--turns", "1", "--busy", "1"]
    assert engines.main([*arguments, "--output", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "engines.json").read_text())["rows"]
    assert [row["way"] for row in rows] == ["ours, torch", "ours, ONNX Runtime"]
    assert all(min(row["seconds"] + row["busy_seconds"]) > 0 for row in rows)
    assert rows[0]["error"] == 0 and 0 < rows[1]["error"] < 1e-4 and rows[1]["agreement"] > 0.999
    lines = (tmp_path / "engines.md").read_text().splitlines()
    assert lines[-1] in capsys.readouterr().out
    assert (tmp_path / "engines.png").read_bytes().startswith(b"\x89PNG")


def test_a_way_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways.Way, "missing", lambda _: "this CPU is made of wood")
    rows = engines.measure("phantom", ways.WAYS[:1], 1, 0)
    assert rows[0]["failure"] == "this CPU is made of wood"
    assert "not run: this CPU is made of wood" in engines.table(rows)[-1]


def test_a_worker_that_fails_gives_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.npy"):
        Worker(ways.WAYS[0], "phantom", tmp_path / "nothing.npy", tmp_path / "0.npy")


def test_wrong_arguments_end_with_2(tmp_path: Path) -> None:
    for arguments in (["--turns", "0"], ["--only", "no such way"], ["--only", "["]):
        with pytest.raises(SystemExit) as status:
            engines.main([*arguments, "--output", str(tmp_path)])
        assert status.value.code == 2
