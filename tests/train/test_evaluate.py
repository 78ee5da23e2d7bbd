"""Evaluation: figures that are known beforehand, and the report."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.layout import make_layout
from helpers.small_models import small_model
from helpers.small_towers import IMAGE
from ht_kernels.cli import main
from ht_kernels.train import Examples, calibrate
from ht_kernels.train.evaluate import evaluate
from ht_kernels.train.metrics import score, summarize
from ht_kernels.train.pictures import spearman
from ht_kernels.weights import PHANTOM


def test_figures_of_squares() -> None:
    truth = torch.zeros(3, 32, 32, dtype=torch.uint8)
    truth[:2, 8:16, 8:16] = 1
    guess = truth.clone()
    guess[1] = truth[1].roll(4, dims=1)
    data = Examples(torch.zeros(3, 1, 32, 32, dtype=torch.uint8), truth, ("same", "moved", "none"), {})
    rows = score(data, range(3), guess, 2)
    assert rows[0]["dice"] == 1 and rows[0]["hd95"] == 0
    assert rows[1]["dice"] == pytest.approx(0.5) and rows[1]["iou"] == pytest.approx(1 / 3) and rows[1]["hd95"] == 4
    summary = summarize(rows)
    assert summary["dice"] == pytest.approx(0.75) and summary["dice_std"] == pytest.approx(0.25)


def test_figures_of_labels() -> None:
    rows = [
        {"name": "", "label": label, "probabilities": [1 - p, p]}
        for label, p in ((1, 0.9), (1, 0.4), (0, 0.6), (0, 0.1))
    ]
    assert summarize(rows) == pytest.approx({"accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5, "auc": 0.75})


def test_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_layout(tmp_path / "data")
    assert main(["evaluate", str(PHANTOM), str(root), "--dataset", "BUSI", "--output", str(tmp_path / "out")]) == 0
    assert "| Dice |" in capsys.readouterr().out
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["images"] == 3 and 0 <= results["summary"]["dice"] <= 1
    assert "unfamiliar" not in results["summary"]  # these weights cannot tell
    assert "confidence" in (tmp_path / "out/results.csv").read_text().splitlines()[0].split(",")
    assert "![overlays.png]" in (tmp_path / "out/report.md").read_text()
    assert len((tmp_path / "out/results.csv").read_text().splitlines()) == 4
    assert main(["evaluate", str(PHANTOM), "--output", str(tmp_path / "out")]) == 2
    assert "no data was named" in capsys.readouterr().err


def squares(count: int) -> Examples:
    """Noise, with a bright square of a random place and brightness as the lesion."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 80, (count, 1, IMAGE, IMAGE), dtype=torch.uint8, generator=generator)
    masks = torch.zeros(count, IMAGE, IMAGE, dtype=torch.uint8)
    for image, mask in zip(images, masks, strict=True):
        y, x, level = (int(torch.randint(0, 32, (), generator=generator)) for _ in range(3))
        image[0, y : y + 24, x : x + 24] += 4 * level
        mask[y : y + 24, x : x + 24] = 1
    return Examples(images, masks, tuple(map(str, range(count))), {})


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_a_calibrated_model_tells_what_is_unfamiliar(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, examples = small_model("timm", task).float(), squares(30)
    if task == "classification":
        examples = Examples(examples.images, torch.arange(30) % 3, examples.names, {})
    calibrate(model, examples, examples, 16, "cpu")
    examples.images[:3] = 255
    passes = []
    features = type(model).features
    monkeypatch.setattr(type(model), "features", lambda self, x: (passes.append(len(x)), features(self, x))[1])
    results = evaluate(model, examples, tmp_path / "out", "a title")
    assert sum(passes) == 30  # one run of the tower for each image
    with (tmp_path / "out/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    with torch.no_grad():
        distances = model.with_distance(examples.images / 255)[1]
    assert [float(row["distance"]) for row in rows] == pytest.approx(distances.tolist(), rel=1e-3)
    assert [row["percentile"] for row in rows[:3]] == ["100.0"] * 3
    share = float((distances > model.familiarity.limit).float().mean())
    assert results["summary"]["unfamiliar"] == pytest.approx(share) and share >= 0.1
    report = (tmp_path / "out/report.md").read_text()
    assert f"| share of unfamiliar images | {share:.4f} |" in report
    scatter = task == "segmentation"
    assert ("confidence" in rows[0]) == ("![confidence.png]" in report) == scatter
    assert (tmp_path / "out/confidence.png").exists() == scatter


def test_spearman() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(x, np.exp(x)) == pytest.approx(1) and spearman(x, -(x**3)) == pytest.approx(-1)
    assert spearman(x, np.array([1.0, 3.0, 2.0, 4.0])) == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert spearman(x, np.array([1.0, 1.0, 2.0, 2.0])) == pytest.approx(0.8944272)  # equal ranks: 2 / sqrt(5)
    assert np.isnan(spearman(x, np.ones(4)))
