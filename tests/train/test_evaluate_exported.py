"""An exported file gets the report and the scores of its checkpoint."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ht_kernels as ht
from helpers.layout import make_layout
from helpers.small_models import calibrated, small_model
from helpers.small_towers import IMAGE, small_clip
from ht_kernels.cli import main
from ht_kernels.deploy import Session
from ht_kernels.errors import InputError
from ht_kernels.train import Examples
from ht_kernels.train.evaluate import evaluate
from ht_kernels.train.exported import Exported

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_layout(tmp_path_factory.mktemp("layout") / "data")


def examples(task: str, count: int = 5) -> Examples:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (count, 1, IMAGE, IMAGE), dtype=torch.uint8, generator=generator)
    targets = torch.zeros(count, IMAGE, IMAGE, dtype=torch.uint8)
    targets[:, 10:40, 20:50] = 1
    labels = torch.arange(count) % 2
    names = tuple(f"{i}.png" for i in range(count))
    return Examples(images, labels if task == "classification" else targets, names, {})


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def check_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """The same scores, to a thousandth, under the same names."""
    assert ours.keys() == theirs.keys() and ours["summary"].keys() == theirs["summary"].keys()
    assert ours["summary"] == pytest.approx(theirs["summary"], abs=1e-3, nan_ok=True)
    counted = ("images", "image_size", "lesions", "missed", "without_lesion", "false_alarms")
    assert [ours.get(name) for name in counted] == [theirs.get(name) for name in counted]


@pytest.mark.parametrize("name", ["logits.onnx", "grid.onnx", "model.xml"])
def test_the_command_scores_a_file_as_its_checkpoint(
    name: str, data: Path, whole_checkpoint: Path, tmp_path: Path
) -> None:
    pytest.importorskip("openvino" if name.endswith("xml") else "onnxruntime")
    folded = ht.fold(ht.HTCLIP.from_checkpoint(whole_checkpoint).eval())
    file = tmp_path / name
    if name.endswith("xml"):
        ht.deploy.export_onnx(folded, tmp_path / "model.onnx", batch=(1, 2, 2))
        ht.deploy.build_ir(tmp_path / "model.onnx", file)
    else:
        ht.deploy.export_onnx(folded, file, output="grid" if name.startswith("grid") else None)
    arguments = [str(data), "--dataset", "BUSI", "--output"]
    assert main(["evaluate", str(whole_checkpoint), *arguments, str(tmp_path / "checkpoint")]) == 0
    assert main(["evaluate", str(file), *arguments, str(tmp_path / "file")]) == 0
    folders = tmp_path / "file", tmp_path / "checkpoint"
    ours, theirs = (json.loads((folder / "results.json").read_text()) for folder in folders)
    check_same(ours, theirs)
    assert ours["title"].startswith(name) and 0 < ours["summary"]["dice"] < 1
    assert ours["model"]["runtime"] in ("openvino", "onnxruntime") and ours["model"]["num_classes"] == 2
    for one, other in zip(*map(table, folders), strict=True):
        assert one.keys() == other.keys() and one["name"] == other["name"]
        assert float(one["confidence"]) == pytest.approx(float(other["confidence"]), abs=1e-3)
    assert {p.name for p in folders[0].iterdir()} == {p.name for p in folders[1].iterdir()}


@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("batch", [1, (2, 4, 4), (2, 2, 2)])
def test_a_session_scores_as_its_model(task: str, batch: Any, tmp_path: Path) -> None:
    """With distances, and with batches that the examples do not fill."""
    model = calibrated(small_model("timm", task, num_classes=2)).float()
    grid = "grid" if task == "segmentation" else None
    session = Session.open(ht.fold(model), runtime="cpu", batch=batch, output=grid)
    theirs = evaluate(model, examples(task), tmp_path / "model", "a title")
    ours = evaluate(session, examples(task), tmp_path / "session", "a title")
    check_same(ours, theirs)
    assert "unfamiliar" in ours["summary"]
    for one, other in zip(*(table(tmp_path / name) for name in ("session", "model")), strict=True):
        assert float(one["distance"]) == pytest.approx(float(other["distance"]), rel=1e-3)


def test_logits_are_the_models(tmp_path: Path) -> None:
    model = small_model("timm", num_classes=3).float()
    images = examples("segmentation", 3).images / 255
    with torch.no_grad():
        expected = model(images)
    for output in (None, "grid"):
        ours = Exported(Session.open(ht.fold(model), runtime="cpu", batch=(1, 2, 2), output=output))(images)
        assert ours.shape == expected.shape and np.allclose(ours, expected, atol=1e-3)


def test_what_cannot_be_scored(data: Path, whole_checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("onnxruntime")
    mask = tmp_path / "mask.onnx"
    ht.deploy.export_onnx(ht.fold(ht.HTCLIP.from_checkpoint(whole_checkpoint).eval()), mask, output="mask")
    arguments = [str(mask), str(data), "--dataset", "BUSI", "--output", str(tmp_path / "out")]
    assert main(["evaluate", *arguments]) == 2
    assert "gives mask, and an evaluation needs logits" in capsys.readouterr().err
    assert main(["evaluate", *arguments, "--image-size", "96"]) == 2
    assert "has its tower in it: leave --backbone" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    contrastive = ht.fold(ht.HTCLIP(small_clip(), task="contrastive", bottleneck=8).eval().float())
    with pytest.raises(InputError, match="gives embeddings, and an evaluation needs logits"):
        Exported(Session.open(contrastive, runtime="cpu"))
