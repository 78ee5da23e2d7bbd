"""Pictures of a training and of an evaluation: curves over epochs, outlines over images, confidence against Dice, ROC,
confusion matrix, and recall by rank."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from ht_kernels.class_colors import color_of
from ht_kernels.files import png_bytes
from ht_kernels.words import counted

from .examples import Examples
from .metrics import NAMES, Row

_NAMES_IN_A_ROW = 8
"""How many names of classes a legend has side by side."""

_COLORS = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333"
"""Colours that the colour-blind tell apart (Okabe and Ito)."""

_STYLES = "solid", "dashed", "dotted", "dashdot"

_LONGEST = 24
"""Letters of a name in a picture."""

_MOST_COUNTS = 30
"""Classes up to which a confusion matrix has room for its counts."""


def draw_masks(
    path: Path,
    examples: Examples,
    predictions: Tensor,
    rows: Sequence[Row],
    chosen: Sequence[int],
    title: str,
    names: Sequence[str] = ("background", "lesion"),
) -> None:
    """Draw the chosen images with the true outline in orange and the predicted outline in blue, below a title.

    With more than two ``names`` of classes each class has its own colour, and a legend has those that are drawn; true
    outlines are then dashed. The title of each image has its Dice, or the words "no lesion" if it has none.
    """
    masks = [(examples.targets[i].numpy(), predictions[i].numpy()) for i in chosen]
    drawn = sorted({int(number) for pair in masks for mask in pair for number in np.unique(mask)} - {0})
    several = len(names) > 2
    legend = 0.3 * -(-len(drawn) // _NAMES_IN_A_ROW) if several else 0.0
    columns = min(4, len(chosen))
    height = -(-len(chosen) // columns)
    figure = Figure((3 * columns, 3.4 * height + 0.4 + legend), layout="constrained", dpi=120)
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
        axes.set_title(f"{_short(rows[i]['name'], 40)}\n{words}", fontsize=8)
    words = "truth dashed, prediction solid" if several else "truth orange, prediction blue"
    figure.suptitle(f"{title}: {words}", fontsize=10, wrap=True)
    if legend:
        patches = [Patch(color=_shade(number), label=names[number]) for number in drawn]
        figure.legend(handles=patches, loc="outside lower center", ncols=_NAMES_IN_A_ROW, fontsize=8, frameon=False)
    _save(figure, path)


def draw_confidence(path: Path, rows: Sequence[Row]) -> None:
    """Draw the confidence of each mask against its Dice, and write Spearman's rank correlation into the title."""
    confidence, dice = (np.array([row[name] for row in rows]) for name in ("confidence", "dice"))
    figure = Figure((5, 4.5), layout="constrained", dpi=120)
    axes = figure.subplots()
    axes.scatter(confidence, dice, s=18, alpha=0.6, linewidths=0, color=_COLORS[0], clip_on=False)
    axes.set(xlabel="confidence near the outline", ylabel="Dice", ylim=(-0.03, 1.03))
    found = spearman(confidence, dice)
    words = "no rank correlation" if np.isnan(found) else f"Spearman's rank correlation {found:.2f}"
    axes.set_title(f"{_images(len(rows))} with a lesion and an outline\n{words}", fontsize=9)
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


def draw_roc(path: Path, rows: Sequence[Row], names: Sequence[str]) -> None:
    """Draw the ROC curve of class 1 if there are two classes, or of every class against the rest if there are more.

    The legend has the area under each curve.

    Args:
        path: the PNG file.
        rows: the label and the probabilities of each image.
        names: the names of the classes.
    """
    labels, probabilities = (np.array([row[name] for row in rows]) for name in ("label", "probabilities"))
    drawn = [1] if len(names) == 2 else range(len(names))
    figure = Figure((7.5, 5) if len(drawn) > 1 else (5.5, 5.5), layout="constrained", dpi=120)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, label="chance: AUC 0.5")
    for place, c in enumerate(drawn):
        alarms, hits = roc(labels == c, probabilities[:, c])
        area = float((np.diff(alarms) * (hits[1:] + hits[:-1])).sum() / 2)
        words = "no AUC, as one of the two never occurs" if np.isnan(area) else f"AUC {area:.3f}"
        color, style = _COLORS[place % len(_COLORS)], _STYLES[place // len(_COLORS) % len(_STYLES)]
        label = f"{_short(names[c])}: {words}"
        axes.plot(alarms, hits, color=color, linestyle=style, linewidth=1.8, label=label, clip_on=False)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal", xlim=(0, 1), ylim=(0, 1))
    against = f"{_short(names[1])} against {_short(names[0])}" if len(names) == 2 else "each class against all others"
    axes.set_title(f"ROC of {_images(len(rows))}\n{against}", fontsize=10)
    axes.grid(linewidth=0.5, alpha=0.5)
    axes.set_axisbelow(True)
    if len(drawn) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, fontsize=9)
    else:
        axes.legend(loc="lower right", frameon=False, fontsize=9)
    _save(figure, path)


def roc(truth: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The false and true positive rates at every threshold, from 0 to 1; nan where there is nothing to take a share of.

    Images of equal scores pass a threshold together, so the area below is that of the rank statistic.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of each run of equal scores
    with np.errstate(invalid="ignore"):
        hits, alarms = (np.append(0, part[order].cumsum()[last]) / part.sum() for part in (truth, ~truth))
    return alarms, hits


def draw_confusion(path: Path, rows: Sequence[Row], names: Sequence[str]) -> None:
    """Draw how many images of each class, by rows, were taken for which, by columns, with colours by the row's shares.

    Args:
        path, rows, names: as for :func:`draw_roc`.
    """
    counts = np.zeros((len(names), len(names)), dtype=int)
    for row in rows:
        counts[row["label"], int(np.argmax(row["probabilities"]))] += 1
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    side = min(20.0, 0.65 * len(names))
    figure = Figure((side + 3.6, side + 2.4), layout="constrained", dpi=120)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= _MOST_COUNTS:
        for (i, j), count in np.ndenumerate(counts):
            axes.text(j, i, str(count), ha="center", va="center", color="white" if shares[i, j] > 0.55 else "black")
    ticks, shown = range(len(names)), [_short(name) for name in names]
    axes.set_xticks(ticks, shown, rotation=45, ha="right", rotation_mode="anchor", fontsize=9)
    axes.set_yticks(ticks, shown, fontsize=9)
    axes.set(xlabel="class of the model", ylabel="class in the data")
    right = int(np.trace(counts))
    axes.set_title(f"{right} of {_images(len(rows))} in the right class", fontsize=10)
    figure.colorbar(image, ax=axes, label="share of the row", shrink=0.8)
    _save(figure, path)


def draw_recall(path: Path, rows: Sequence[Row]) -> None:
    """Draw recall at k over k.

    Recall at k is the share of images that have one of their captions among the k most similar captions, and likewise
    the share of captions that have one of their images among the k most similar images.
    """
    figure = Figure((5, 4), layout="constrained", dpi=120)
    axes = figure.subplots()
    for color, (what, label) in zip(_COLORS, (("text", "image to text"), ("image", "text to image")), strict=False):
        found = np.sort([row["rank"] for row in rows if row["found"] == what])
        axes.step(found, np.arange(1, len(found) + 1) / len(found), where="post", label=label, color=color)
    axes.set(xlabel="k, the number of answers that are looked at", ylabel="recall at k", ylim=(0, 1.02), xscale="log")
    axes.set_title("How often a right answer is among the first k", fontsize=10)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.legend(frameon=False)
    _save(figure, path)


def draw_curves(rows: Sequence[Row], score: str, best_epoch: int, title: str) -> bytes:
    """A PNG of what ``log.csv`` has: the loss of training, and the score of validation with its best epoch.

    Args:
        rows: a row for each epoch, with ``epoch``, ``loss`` and, of epochs that were validated, ``val_`` and the score.
        score: the name of the score that the best epoch was chosen by, such as ``dice``, or ``loss``.
        best_epoch: the epoch whose weights were saved, counted from 1; 0 for none.
        title: what was trained.
    """
    figure = Figure(figsize=(7, 6), layout="constrained", dpi=120)
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot([row["epoch"] for row in rows], [row["loss"] for row in rows], ".-", color="#c8501e")
    above.set_ylabel("loss, training split")
    validated = {row["epoch"]: row[f"val_{score}"] for row in rows if f"val_{score}" in row}
    name = NAMES.get(score, score.replace("_", " "))
    below.plot(list(validated), list(validated.values()), ".-", color="#2a7f9e")
    below.set(xlabel="epoch", ylabel=f"{name}, validation split", xlim=(0.5, max(len(rows), 2) + 0.5))
    if best_epoch in validated:
        best = validated[best_epoch]
        below.plot([best_epoch], [best], "o", color="#e0a030", label=f"best: {best:.4f} after epoch {best_epoch}")
        below.legend(frameon=False)
    for axes in (above, below):
        axes.axvline(best_epoch, color="#e0a030", linewidth=0.8, linestyle="dotted") if best_epoch else None
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(linewidth=0.5, alpha=0.5)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    return png_bytes(figure)


def _shade(number: int) -> tuple[float, float, float]:
    """The colour of a class as matplotlib takes it."""
    red, green, blue = color_of(number)
    return red / 255, green / 255, blue / 255


def _short(name: str, longest: int = _LONGEST) -> str:
    """A name that is cut in the middle if it is too long for a picture."""
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"


def _images(count: int) -> str:
    return counted(count, "image")


def _save(figure: Figure, path: Path) -> None:
    path.write_bytes(png_bytes(figure))
