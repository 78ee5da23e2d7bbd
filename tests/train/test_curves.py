"""The picture of a training: the loss, the score of validation, and the best epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from helpers.layout import make_layout
from helpers.training import train
from ht_kernels.train.pictures import draw_curves

ROWS: list[dict[str, Any]] = [
    {"epoch": 1, "loss": 0.9, "val_dice": 0.2},
    {"epoch": 2, "loss": 0.6},
    {"epoch": 3, "loss": 0.5, "val_dice": 0.7, "remarks": "a remark"},
    {"epoch": 4, "loss": 0.4, "val_dice": 0.6},
]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    figures: list[Figure] = []
    monkeypatch.setattr("ht_kernels.train.pictures.png_bytes", lambda figure: figures.append(figure) or b"")
    return figures


def test_what_is_drawn(drawn: list[Figure]) -> None:
    draw_curves(ROWS, "dice", 3, "run: ht, 28 images to train on")
    above, below = drawn[0].axes
    assert [list(line.get_ydata()) for line in above.lines[:1]] == [[0.9, 0.6, 0.5, 0.4]]
    assert list(below.lines[0].get_xdata()) == [1, 3, 4] and list(below.lines[0].get_ydata()) == [0.2, 0.7, 0.6]
    assert (list(below.lines[1].get_xdata()), list(below.lines[1].get_ydata())) == ([3], [0.7])
    assert below.get_legend().get_texts()[0].get_text() == "best: 0.7000 after epoch 3"
    words = above.get_ylabel(), below.get_ylabel(), below.get_xlabel(), drawn[0].get_suptitle()
    assert words == ("loss, training split", "Dice, validation split", "epoch", "run: ht, 28 images to train on")


def test_a_training_that_is_chosen_by_its_loss_or_has_no_best_epoch(drawn: list[Figure]) -> None:
    draw_curves([{"epoch": 1, "loss": 2.0, "val_loss": 3.0, "val_mean_recall": 0.5}], "loss", 1, "a")
    draw_curves([{"epoch": 1, "loss": 2.0}], "accuracy", 0, "b")
    assert list(drawn[0].axes[1].lines[0].get_ydata()) == [3.0]
    assert drawn[1].axes[1].get_ylabel() == "accuracy, validation split" and drawn[1].axes[1].get_legend() is None


def test_a_training_draws_its_curves_also_when_it_goes_on(tmp_path: Path) -> None:
    root, path = make_layout(tmp_path / "data"), tmp_path / "out/curves.png"
    pictures = []
    for epochs in (1, 3):
        train(root, tmp_path / "out", "heads", epochs=epochs)
        with Image.open(path) as picture:
            pictures.append(np.asarray(picture.convert("L")))
    assert pictures[0].shape == pictures[1].shape and (pictures[0] != pictures[1]).any()
    assert pictures[1].std() > 10
