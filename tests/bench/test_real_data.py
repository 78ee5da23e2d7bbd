"""The comparison on real data, and the training benchmark: that they run, go on, and sum up right."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from benchmarks import training
from benchmarks.real_data import report, runs, times
from benchmarks.real_data.__main__ import main
from helpers.layout import make_layout

pytestmark = pytest.mark.usefixtures("one_thread")


def row(method: str, seed: int, dice: float, ratio: int = 100) -> dict[str, object]:
    figures = {"dice": dice, "iou": dice / 2, "dice_unseen": dice - 0.1, "val_dice": dice, "cpu_seconds_per_pass": 3.0}
    counts = {"train_images": 312, "test_images": 89, "test_images_unseen": 74, "trained_parameters": 1000}
    setting = {"epochs": 6, "learning_rate": 1e-3, "batch": 8}
    return {"method": method, "ratio": ratio, "seed": seed, **figures, **counts, "setting": setting}


def test_the_table_says_who_won_and_what_is_missing(tmp_path: Path) -> None:
    rows = [row("lora", 0, 0.5), row("lora", 1, 0.7), row("hybrid_gain", 0, 0.55), row("shipped_trained", 0, 0.9)]
    report.write(rows, 27, {"lora": {"published": 9.0, "ours": 3.0}}, tmp_path)
    text = (tmp_path / "results.md").read_text()
    assert text.startswith("4 of 27 runs are finished")
    assert "| 2 | 0.600 ± 0.141 | 0.300 ± 0.071 | 0.500 ± 0.141 | 0.600 ± 0.141 | 3.0 | 9.0 | 3.0 |" in text
    assert "hybrid (gain) is 0.050 below it" in text and "20 %" not in text
    assert len(list(csv.DictReader((tmp_path / "results.csv").open()))) == 4
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
    assert "0.100 above" in report.verdict([row("lora", 0, 0.5), row("hybrid_spectral", 0, 0.6)])


def test_a_share_of_the_data_is_passed_as_often_as_makes_up_for_it() -> None:
    order = list(runs.order(3))
    assert [(r.method.name, r.ratio, r.seed) for r in order[:2]] == [("heads", 100, 0), ("lora", 100, 0)]
    assert len(order) == len({r.name for r in order}) == 81
    recipe = runs.Run(runs.METHODS[0], 5, 2).recipe(runs.Setting(epochs=6, learning_rate=1e-3, batch=8))
    assert (recipe.epochs, recipe.validate_every, recipe.ratio, recipe.seed) == (120, 20, 5, 2)


def test_runs_are_trained_once_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, output = make_layout(tmp_path / "data"), tmp_path / "out"
    monkeypatch.setattr(runs, "RATIOS", (100,))
    chosen = tuple(m for m in runs.METHODS if m.name in ("heads", "hybrid_spectral"))
    monkeypatch.setattr(runs, "METHODS", chosen)
    monkeypatch.setattr(times, "METHODS", chosen)
    arguments = [str(root), "--output", str(output), "--epochs", "1", "--seeds", "1", "--batch", "2"]
    assert main(arguments) == 0
    table = list(csv.DictReader((output / "results.csv").open()))
    assert [r["method"] for r in table] == ["heads", "hybrid_spectral"] and int(table[0]["test_images"]) == 3
    before = (output / "runs/100-heads-0/result.json").stat().st_mtime_ns
    assert main([*arguments, "--times", "0.01"]) == 0 and main(arguments) == 0
    assert (output / "runs/100-heads-0/result.json").stat().st_mtime_ns == before
    measured = json.loads((output / "times.json").read_text())
    assert set(measured["heads"]) == {"published", "ours"} and set(measured["hybrid_spectral"]) == {"ours"}
    assert main([*arguments, "--learning-rate", "1"]) == 2
    assert "name another folder" in capsys.readouterr().err


def test_training_steps_are_the_same_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    assert training._resident("VmHWM") >= training._resident("VmRSS") > 2**20
    monkeypatch.setattr(training, "_memory", lambda name, kind, *_: {"published": 4, "ours": 1}[kind] * 2**20)
    figures = training.measure(training.SHIPPED, 1, 0.01, 3, torch.device("cpu"))
    assert figures["largest_difference"] < 1e-4 < figures["losses"]["ours"][0]
    assert "| 4 MiB | 1 MiB | 25% |" in (line := training.table([figures])[-1]) and "in 3 steps" in line
