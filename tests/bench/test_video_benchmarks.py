"""The benchmarks of video and of ONNX Runtime as programs; the second fully where onnxscript is."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from benchmarks import onnx_runtime, video
from helpers.clips import TINY

pytestmark = pytest.mark.usefixtures("one_thread")


def test_video(tmp_path: Path) -> None:
    assert video.main(["--output", str(tmp_path / "out"), "--seconds", "0.5", *TINY]) == 0
    (row,) = json.loads((tmp_path / "out/video.json").read_text())["rows"]
    assert row["backend"] == "cpu" and not row["file"]["live"] and row["live"]["live"]
    assert row["file"]["states"] == {"ok": row["file"]["frames"]} and row["file"]["fps"] > 0
    header, rule, figures = (tmp_path / "out/video.md").read_text().splitlines()
    assert header.count("|") == rule.count("|") == figures.count("|") and "timm/vit_tiny" in figures


def test_onnx_runtime(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = onnx_runtime.main(["--output", str(tmp_path / "out"), "--seconds", "0.1", *TINY])
    if importlib.util.find_spec("onnxscript") is None:
        assert status == 2 and "pip install onnxscript" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
        return
    assert status == 0
    (row,) = json.loads((tmp_path / "out/onnx_runtime.json").read_text())["rows"]
    assert row["operators"]["published"]["DFT"] > 0 and "DFT" not in row["operators"]["ours"]
    assert all(seconds > 0 for seconds in row["seconds"].values())
    assert all(error < 1e-4 for error in row["largest_error"].values())
    assert "timm/vit_tiny" in (tmp_path / "out/onnx_runtime.md").read_text()
