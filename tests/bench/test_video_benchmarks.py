"""The benchmark of video as a program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import openigtlink, video
from helpers.clips import TINY
from ht_kernels.bench import stream
from ht_kernels.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")


def test_video(tmp_path: Path) -> None:
    assert video.main(["--output", str(tmp_path / "out"), "--seconds", "0.5", *TINY]) == 0
    (row,) = json.loads((tmp_path / "out/video.json").read_text())["rows"]
    assert not row["file"]["live"] and row["live"]["live"]
    assert {row[name]["model"]["runtime"] for name in ("file", "live")} == {"openvino"}
    assert row["file"]["states"] == {"ok": row["file"]["frames"]} and row["file"]["fps"] > 0
    header, rule, figures = (tmp_path / "out/video.md").read_text().splitlines()
    assert header.count("|") == rule.count("|") == figures.count("|") and "timm/vit_tiny" in figures


def test_stream(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SIZES", ((48, 64), (60, 40)))
    monkeypatch.setattr(stream, "FRAMES", 4)
    assert main(["bench", "--stream", "--seconds", "1", "--output", str(tmp_path)]) == 0
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["form"] == "stream" and document["model"] == stream.BACKBONE
    assert [(row["height"], row["width"]) for row in document["rows"]] == [(48, 64), (60, 40)]
    for row in document["rows"]:
        assert row["frames"] == sum(row["states"].values()) > 0 and row["masks_per_second"] > 0
        for ages in row["latency_ms"].values():
            assert 0 < ages["p50"] <= ages["p99"]
        assert set(row["latency_ms"]) == {"frame_age", "mask_delay", "mask_age"}
        assert row["runtime"] == "openvino"  # as ht-kernels stream has it
    shown = capsys.readouterr().out
    assert "48x64" in shown and "60x40" in shown


def test_openigtlink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openigtlink, "SIZE", (48, 64))
    assert openigtlink.main(["--output", str(tmp_path / "igtl.json"), "--seconds", "1.5"]) == 0
    document = json.loads((tmp_path / "igtl.json").read_text())
    assert [row["image"] for row in document["rows"]] == ["gray", "RGB"]
    assert all(value > 0 for row in document["rows"] for value in row["ms"].values())
    assert {"pack", "parse"} <= document["rows"][0]["ms"].keys()
    played = document["stream"]
    assert 0 < played["frames"] <= played["sent"] and played["read"] > 0
    assert "images sent" in (tmp_path / "igtl.md").read_text()


def test_a_stream_that_ends_before_its_first_mask() -> None:
    ages = {"frame_age": {"p50": 1.0, "p99": 2.0}, "mask_delay": None, "mask_age": None}
    row = {"height": 48, "width": 64, "runtime": "cpu", "masks_per_second": None, "latency_ms": ages}
    assert stream.table({"rows": [row]})[1].split() == ["48x64", "1.0", "2.0", *"----", "0.0", "cpu"]


def test_a_phantom_moves_to_and_fro(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "FRAMES", 4)
    source = stream.phantom((40, 32))
    shown = [frame for _, (_, frame) in zip(range(13), source.timed(), strict=False)]
    assert source.fps == 30 and all(frame.shape == (40, 32) and frame.dtype == "uint8" for frame in shown)
    order = [next(i for i in range(4) if (shown[i] == frame).all()) for frame in shown]
    assert order == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0]
