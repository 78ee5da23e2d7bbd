"""The benchmark of distances as a program, and its arithmetic."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

import ht_kernels as ht
from benchmarks import familiarity
from helpers.layout import make_layout
from helpers.small_models import calibrated
from ht_kernels.distance_scale import DistanceScale

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(familiarity, "PHANTOMS", 3)
    model = ht.HTCLIP("timm/vit_tiny_patch16_224", image_size=64, bottleneck=8, reduce_dim=16).eval()
    path, out = tmp_path / "model.safetensors", tmp_path / "out"
    arguments = [str(path), str(make_layout(tmp_path / "data")), "--output", str(out)]
    model.save(path)
    assert familiarity.main(arguments) == 2 and "calibrate it with" in capsys.readouterr().err and not out.exists()
    calibrated(model).save(path)
    assert familiarity.main(arguments) == 0
    assert sorted(file.name for file in out.iterdir()) == [
        f"familiarity.{kind}" for kind in ("csv", "json", "md", "png")
    ]
    document = json.loads((out / "familiarity.json").read_text())
    rows = {row["set"]: row for row in document["rows"]}
    counts = {"BUSI test split": 3, "upside down": 3, "heart ultrasound": 30, "simulated phantoms": 3}
    assert {name: rows[name]["images"] for name in counts} == counts
    assert rows["CT, MR and other DICOM"]["images"] >= 10 and rows["other ultrasound"]["images"] >= 2
    assert rows["BUSI test split"]["auroc"] is None and all(0 <= row["auroc"] <= 1 for row in document["rows"][1:])
    assert document["limit"] == pytest.approx(float(model.familiarity.limit))
    with (out / "familiarity.csv").open() as file:
        assert len(list(csv.DictReader(file))) == sum(row["images"] for row in document["rows"])
    text = (out / "familiarity.md").read_text()
    assert "| heart ultrasound | 30 |" in text and capsys.readouterr().out == text


def test_the_figures() -> None:
    found = {"known": torch.tensor([1.0, 2.0]), "far": torch.tensor([3.0, 4.0]), "same": torch.tensor([1.0, 2.0])}
    rows = familiarity.summarize(found, DistanceScale(2.5, (1.0, 2.0)))
    assert [(row["auroc"], row["unfamiliar"]) for row in rows] == [(None, 0), (1.0, 2), (0.5, 0)]
    assert familiarity.auroc(found["far"], found["known"]) == 0


def test_an_auroc_of_one_is_exact() -> None:
    """It is said to mean that every one of the others is farther away, so 0.9999 must not be shown as 1.000."""
    known = torch.arange(100.0)
    found = {"known": known, "all": known + 100, "all but one pair": torch.cat([known + 100, torch.tensor([98.5])])}
    scale = DistanceScale(99.0, (0.0, 99.0))
    areas = [line.split(" | ")[3] for line in familiarity.table(familiarity.summarize(found, scale), scale, {})[-2:]]
    assert areas == ["1.000", "0.999"]


def test_doubles_are_left_out() -> None:
    """pydicom has one picture in many encodings."""
    frames = familiarity._dicom((64, 64), lambda kind: kind == "MR")
    assert len(frames) == len({bytes(frame.numpy()) for frame in frames}) >= 2
