"""The figures of a run, and what can be said about the difference of two methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ht_kernels.train.metrics import count_misses, summarize

Result = dict[str, Any]
Array = NDArray[np.float64]

_RESAMPLES = 10_000
_BINS = 10


class Difference(NamedTuple):
    """A mean difference over test images, with the ends of its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def summary(result: Result) -> dict[str, float]:
    """The figures of a run over its test images.

    For segmentation they are the means of the scores in :func:`overlaps_and_distances`, the number of ``lesions``, and
    how many of them were ``missed``. For classification they are AUC, accuracy, the Brier score and the expected
    calibration error.
    """
    images = result["images"]
    if result["setting"]["task"] == "classification":
        scores = summarize(images)
        truth, chance = _labels(images)
        calibration = {"brier": float(((chance - truth) ** 2).mean()), "ece": calibration_error(truth, chance)}
        return {"auc": scores["auc"], "accuracy": scores["accuracy"], **calibration}
    values = overlaps_and_distances(images, result["setting"]["image_size"])
    known = {name: each[~np.isnan(each)] for name, each in values.items()}
    means = {name: float(each.mean()) if len(each) else math.nan for name, each in known.items()}
    return {**means, "lesions": len(known["dice"]), "missed": len(known["dice"]) - len(known["hd95"])}


def overlaps_and_distances(images: Sequence[dict[str, Any]], image_size: int) -> dict[str, Array]:
    """``dice``, ``iou``, ``hd95`` and ``hd95_all`` of each image with a lesion, from its row in a run's result.

    They are those of :func:`ht_kernels.train.metrics.score`. The study has one foreground class, so a lesion without
    ``hd95`` was missed, and ``hd95_all`` follows from the other figures.
    """
    dice, iou, hd95 = (np.array([row[name] for row in images], dtype=float) for name in ("dice", "iou", "hd95"))
    counted = count_misses(torch.from_numpy(hd95), image_size, image_size).numpy()
    values = {"dice": dice, "iou": iou, "hd95": hd95, "hd95_all": counted}
    return {name: each[~np.isnan(dice)] for name, each in values.items()}


def calibration_error(truth: Array, chance: Array) -> float:
    """The expected calibration error of probabilities of class 1, in ten bins of equal width.

    It is the mean distance of a bin's mean probability from its share of class 1, weighted by the images in the bin:
    M. P. Naeini, G. Cooper and M. Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning", 2015.
    """
    bins = np.minimum((chance * _BINS).astype(int), _BINS - 1)
    gaps = [abs(float((chance[bins == b] - truth[bins == b]).sum())) for b in range(_BINS)]
    return sum(gaps) / len(truth)


def reliability(results: Sequence[Result]) -> list[tuple[float, float, int]]:
    """For each bin of probability that has images: mean probability, share of class 1, and number of images."""
    truth, chance = (np.concatenate(parts) for parts in zip(*(_labels(r["images"]) for r in results), strict=True))
    bins = np.minimum((chance * _BINS).astype(int), _BINS - 1)
    inside = [bins == b for b in range(_BINS) if (bins == b).any()]
    return [(float(chance[b].mean()), float(truth[b].mean()), int(b.sum())) for b in inside]


def paired(one: Sequence[Result], other: Sequence[Result]) -> Difference:
    """The difference in mean Dice, or in AUC, of two methods (``one`` minus ``other``) over the same test images.

    Where both have runs of the same seeds, which are of the same training images, only these count. Dice of an image is
    averaged over a method's seeds first, and AUC is that of each seed, averaged. The interval is that of the percentile
    bootstrap over images: B. Efron and R. J. Tibshirani, "An Introduction to the Bootstrap", 1993.
    """
    both = {result["seed"] for result in one} & {result["seed"] for result in other}
    if both:
        one, other = ([result for result in results if result["seed"] in both] for results in (one, other))
    if one[0]["setting"]["task"] == "classification":
        return _paired_areas(one, other)
    ours, theirs = _by_image(one), _by_image(other)
    differences = np.array([ours[name] - theirs[name] for name in sorted(ours.keys() & theirs.keys())])
    return Difference(float(differences.mean()), *interval(len(differences), lambda i: differences[i].mean(-1)))


def _paired_areas(one: Sequence[Result], other: Sequence[Result]) -> Difference:
    def difference(weights: Array) -> Array:
        ours, theirs = (np.mean([areas(*_labels(r["images"]), weights) for r in part], 0) for part in (one, other))
        return np.asarray(ours - theirs)

    count = len(one[0]["images"])
    ends = interval(count, lambda drawn: difference(np.stack([np.bincount(d, minlength=count) for d in drawn])))
    return Difference(float(difference(np.ones((1, count)))[0]), *ends)


def areas(truth: Array, chance: Array, weights: Array) -> Array:
    """The areas under the ROC curve (W,) of N images, each counted as often as a row of ``weights`` (W, N) says.

    The area is the chance that an image of class 1 has a higher probability than one of class 0, and half of it for
    equal ones. It is nan if a row has images of one class only.
    """
    higher, lower = truth == 1, truth == 0
    order = (np.sign(chance[higher, None] - chance[None, lower]) + 1) / 2
    pairs = weights[:, higher].sum(1) * weights[:, lower].sum(1)
    found = ((weights[:, higher] @ order) * weights[:, lower]).sum(1)
    return np.asarray(np.divide(found, pairs, out=np.full(len(weights), np.nan), where=pairs > 0))


def interval(count: int, statistic: Callable[[NDArray[np.int64]], Array]) -> tuple[float, float]:
    """The 95 % interval of a statistic of ``count`` images. It is called with indices (resamples, count)."""
    drawn = np.random.default_rng(0).integers(0, count, (_RESAMPLES, count))
    low, high = np.nanquantile(statistic(drawn), (0.025, 0.975))
    return float(low), float(high)


def _by_image(results: Sequence[Result]) -> dict[str, float]:
    scores: dict[str, list[float]] = {}
    for result in results:
        for row in result["images"]:
            if row["dice"] is not None:
                scores.setdefault(row["name"], []).append(row["dice"])
    return {name: float(np.mean(values)) for name, values in scores.items()}


def _labels(images: Sequence[dict[str, Any]]) -> tuple[Array, Array]:
    """The labels, and the probabilities of class 1."""
    return (
        np.array([row["label"] for row in images], dtype=float),
        np.array([row["probabilities"][1] for row in images], dtype=float),
    )
