"""The benchmark of video as a program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import video
from helpers.clips import TINY

pytestmark = pytest.mark.usefixtures("one_thread")


def test_video(tmp_path: Path) -> None:
    assert video.main(["--output", str(tmp_path / "out"), "--seconds", "0.5", *TINY]) == 0
    (row,) = json.loads((tmp_path / "out/video.json").read_text())["rows"]
    assert row["backend"] == "cpu" and not row["file"]["live"] and row["live"]["live"]
    assert row["file"]["states"] == {"ok": row["file"]["frames"]} and row["file"]["fps"] > 0
    header, rule, figures = (tmp_path / "out/video.md").read_text().splitlines()
    assert header.count("|") == rule.count("|") == figures.count("|") and "timm/vit_tiny" in figures
