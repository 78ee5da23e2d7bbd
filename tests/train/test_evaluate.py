"""Evaluation: figures that are known beforehand, and the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from helpers.layout import make_layout
from ht_kernels.cli import main
from ht_kernels.train import Examples
from ht_kernels.train.metrics import score, summarize
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
    assert "![overlays.png]" in (tmp_path / "out/report.md").read_text()
    assert len((tmp_path / "out/results.csv").read_text().splitlines()) == 4
    assert main(["evaluate", str(PHANTOM), "--output", str(tmp_path / "out")]) == 2
    assert "no data was named" in capsys.readouterr().err
