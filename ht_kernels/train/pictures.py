"""Pictures of an evaluation: outlines over images, confidence against Dice, ROC curves, and recall by rank."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from ht_kernels.class_colors import color_of
from ht_kernels.files import png_bytes

from .examples import Examples
from .metrics import Row

_NAMES_IN_A_ROW = 8
"""How many names of classes a legend has side by side."""


def draw_masks(
    path: Path,
    examples: Examples,
    predictions: Tensor,
    rows: Sequence[Row],
    chosen: Sequence[int],
    names: Sequence[str] = ("background", "lesion"),
) -> None:
    """Draw the chosen images with the true outline in orange and the predicted outline in blue.

    With more than two ``names`` of classes each class has its own colour, and a legend has those that are drawn; true
    outlines are then dashed. The title of each image has its Dice, or the words "no lesion" if it has none.
    """
    masks = [(examples.targets[i].numpy(), predictions[i].numpy()) for i in chosen]
    drawn = sorted({int(number) for pair in masks for mask in pair for number in np.unique(mask)} - {0})
    several = len(names) > 2
    legend = 0.3 * -(-len(drawn) // _NAMES_IN_A_ROW) if several else 0.0
    columns = min(4, len(chosen))
    height = -(-len(chosen) // columns)
    figure = Figure((12, 3.2 * height + legend), layout="constrained")
    grid = figure.subplots(height, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, i, (truth, prediction) in zip(grid.flat, chosen, masks, strict=False):
        axes.imshow(examples.images[i, 0], cmap="gray", vmin=0, vmax=255)
        for mask, color, style in (
            (truth, "#ffaa00", "dashed" if several else "solid"),
            (prediction, "#00b4ff", "solid"),
        ):
            for number in drawn:
                if (mask == number).any():
                    shade = _shade(number) if several else color
                    axes.contour(mask == number, [0.5], colors=[shade], linewidths=1.2, linestyles=style)
        words = f"Dice {rows[i]['dice']:.3f}" if rows[i]["lesions"] else "no lesion"
        axes.set_title(f"{rows[i]['name']}\n{words}", fontsize=8)
    words = "truth dashed, prediction solid" if several else "truth orange, prediction blue"
    figure.suptitle(f"The worst, the middle and the best: {words}", fontsize=10)
    if legend:
        patches = [Patch(color=_shade(number), label=names[number]) for number in drawn]
        figure.legend(handles=patches, loc="outside lower center", ncols=_NAMES_IN_A_ROW, fontsize=8, frameon=False)
    _save(figure, path)


def draw_confidence(path: Path, rows: Sequence[Row]) -> None:
    """Draw the confidence of each mask against its Dice, and write Spearman's rank correlation into the title."""
    confidence, dice = (np.array([row[name] for row in rows]) for name in ("confidence", "dice"))
    figure = Figure((5, 4.5))
    axes = figure.subplots()
    axes.scatter(confidence, dice, s=18, alpha=0.6, linewidths=0)
    axes.set(xlabel="confidence near the outline", ylabel="Dice", ylim=(-0.03, 1.03))
    found = spearman(confidence, dice)
    words = "no rank correlation" if np.isnan(found) else f"Spearman's rank correlation {found:.2f}"
    axes.set_title(f"{len(rows)} images with a lesion and an outline\n{words}", fontsize=9)
    axes.grid(linewidth=0.5, alpha=0.5)
    axes.set_axisbelow(True)
    _save(figure, path)


def spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The rank correlation of two series, in which equal values share their mean rank; nan where one is constant."""
    ranks = [_ranks(values) - (len(values) - 1) / 2 for values in (x, y)]
    size = np.prod([np.linalg.norm(r) for r in ranks])
    return float(ranks[0] @ ranks[1] / size) if size > 0 else float("nan")


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    below = (values[None] < values[:, None]).sum(1)
    not_above = (values[None] <= values[:, None]).sum(1)
    means: NDArray[np.float64] = (below + not_above - 1) / 2
    return means


def draw_roc(path: Path, rows: Sequence[Row]) -> None:
    """Draw the ROC curve of class 1 if there are two classes, or of every class against the rest if there are more."""
    labels, probabilities = (np.array([row[name] for row in rows]) for name in ("label", "probabilities"))
    figure = Figure((5, 5))
    axes = figure.subplots()
    for c in [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1]):
        truth = (labels == c)[np.argsort(-probabilities[:, c], kind="stable")]
        hits, alarms = (np.concatenate([[0], np.cumsum(part)]) / max(1, part.sum()) for part in (truth, ~truth))
        axes.plot(alarms, hits, label=f"class {c}")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
    axes.legend(frameon=False)
    _save(figure, path)


def draw_recall(path: Path, rows: Sequence[Row]) -> None:
    """Draw recall at k over k.

    Recall at k is the share of images that have one of their captions among the k most similar captions, and likewise
    the share of captions that have one of their images among the k most similar images.
    """
    figure = Figure((5, 4))
    axes = figure.subplots()
    for what, label in (("text", "image to text"), ("image", "text to image")):
        found = np.sort([row["rank"] for row in rows if row["found"] == what])
        axes.step(found, np.arange(1, len(found) + 1) / len(found), where="post", label=label)
    axes.set(xlabel="k", ylabel="recall at k", ylim=(0, 1.02), xscale="log")
    axes.legend(frameon=False)
    _save(figure, path)


def _shade(number: int) -> tuple[float, float, float]:
    """The colour of a class as matplotlib takes it."""
    red, green, blue = color_of(number)
    return red / 255, green / 255, blue / 255


def _save(figure: Figure, path: Path) -> None:
    if figure.get_layout_engine() is None:
        figure.tight_layout()
    path.write_bytes(png_bytes(figure))
