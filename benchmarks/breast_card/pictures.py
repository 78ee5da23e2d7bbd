"""The pictures of the card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ht_kernels.train import Examples
from ht_kernels.train.metrics import Row

from .measures import Group, estimates, reasons

WORST = 6
_EXPERT, _MODEL = "#ffaa00", "#00b4ff"
_DOT, _MEAN = "#6c8ebf", "#222222"


def draw_worst(examples: Examples, masks: Tensor, rows: Sequence[Row], found: Sequence[Group]) -> Figure:
    """Draw the images with the lowest Dice, with the expert's outline and the model's, and what makes them hard."""
    chosen = sorted(range(len(rows)), key=lambda i: rows[i]["dice"])[:WORST]
    figure = Figure(figsize=(9, 7), layout="constrained", dpi=100)
    panels = figure.subplots(2, WORST // 2, squeeze=False).ravel()
    for axes in panels:
        axes.axis("off")
    for axes, i in zip(panels, chosen, strict=False):
        axes.imshow(examples.images[i, 0], cmap="gray", vmin=0, vmax=255)
        for mask, color in ((examples.targets[i], _EXPERT), (masks[i], _MODEL)):
            if mask.any():
                axes.contour(mask > 0, [0.5], colors=color, linewidths=1.5)
        words = ", ".join([f"Dice {rows[i]['dice']:.2f}", *reasons(found, i)])
        axes.set_title(f"{Path(rows[i]['name']).stem}\n{words}", fontsize=10)
    title = f"The {len(chosen)} test images with the lowest Dice: the expert's outline orange, the model's blue"
    figure.suptitle(title, fontsize=11)
    return figure


def draw_dice(sets: Mapping[str, Sequence[Row]]) -> Figure:
    """Draw a row for each set of images: a dot per image, and the mean Dice with its interval."""
    figure = Figure(figsize=(9, 0.42 * len(sets) + 1.1), layout="constrained", dpi=100)
    axes = figure.subplots()
    chance = np.random.default_rng(0)
    for place, rows in enumerate(sets.values()):
        axes.scatter(
            [row["dice"] for row in rows],
            place + chance.uniform(-0.25, 0.25, len(rows)),
            s=12,
            color=_DOT,
            alpha=0.7,
            linewidths=0,
        )
        dice = estimates(rows)["dice"]
        axes.plot([dice.low, dice.high], [place, place], color=_MEAN, linewidth=1.6)
        axes.plot(dice.mean, place, "o", color=_MEAN, markersize=5)
    axes.set_yticks(range(len(sets)), [f"{name} ({len(rows)})" for name, rows in sets.items()])
    axes.set(xlabel="Dice", xlim=(-0.02, 1.02), ylim=(len(sets) - 0.5, -0.6))
    axes.set_title("A dot for each image; mean and 95 % interval over images in black", fontsize=10)
    axes.grid(axis="x", linewidth=0.5, alpha=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
