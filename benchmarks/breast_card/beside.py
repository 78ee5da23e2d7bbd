"""The Dice of another network beside that of the card's model, image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ht_kernels.train import Examples

from ..changes import CHANGES, dice, dice_by_change
from .measures import estimate


def compare(
    model: Any, other: Any, ours: Mapping[str, Examples], theirs: Mapping[str, Examples]
) -> list[dict[str, Any]]:
    """Compare two models on the validation split, and on the test split as it is and changed.

    Args:
        model: that of the card.
        other: the other one.
        ours, theirs: by split, the same images at the size of each model. They are changed, and Dice is computed, at
            that size, so grains and blocks of JPEG are as many pixels wide for both, and the noise is not the same.

    Returns:
        For each set of images a row: its name, the ``model``'s Dice and the ``other``'s, and the ``difference``, which
        is of the images in which both have a lesion to find.
    """
    val = dice(model, ours["val"]), dice(other, theirs["val"])
    test = dice_by_change(model, ours["test"]), dice_by_change(other, theirs["test"])
    pairs = {"validation": val} | {f"test, {change}": (test[0][change], test[1][change]) for change in CHANGES}
    rows = []
    for name, (first, second) in pairs.items():
        one, two = np.array(first, dtype=float), np.array(second, dtype=float)
        figures = {"model": estimate(one), "other": estimate(two), "difference": estimate(one - two)}
        rows.append({"set": name, **figures})
    return rows


def table(rows: Sequence[Mapping[str, Any]], model: str, other: str) -> list[str]:
    """The lines of the comparison in Markdown. ``model`` and ``other`` are the names of both."""
    lines = [f"| Dice | {model} | {other} | {model} minus {other} |", "|---|--:|--:|--:|"]
    for row in rows:
        figures = row["model"].words(3), row["other"].words(3), row["difference"].words(3, "+")
        lines.append(f"| {row['set']} | {' | '.join(figures)} |")
    return lines
