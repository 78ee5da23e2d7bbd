"""What the card says: the scores of each image and what makes it hard, groups of images, and means with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ht_kernels.class_names import class_count
from ht_kernels.clip import HTCLIP
from ht_kernels.train import Examples
from ht_kernels.train.metrics import Row, predict_with_signals, score
from ht_kernels.train.pictures import spearman

from ..real_data.statistics import Array, interval

Mask = NDArray[np.bool_]

RING = 16
"""The ring around a lesion reaches a 16th of the image's side outwards."""

ALIKE = 0.25
"""Mean gray values that differ by less than this share of the surrounding one count as alike."""

HARD = ("small", "isoechoic", "shadowed")
"""The groups that say what makes an image hard."""

SCORES = ("dice", "iou", "hd95", "hd95_all")
"""The scores of :func:`ht_kernels.train.metrics.score` that the card has."""

_BATCH = 16


class Estimate(NamedTuple):
    """A mean over images, with the ends of its 95 % bootstrap interval. All are nan where no image has the figure."""

    mean: float
    low: float
    high: float

    def words(self, digits: int, sign: str = "") -> str:
        """The mean and the interval in so many decimals, with a ``sign`` of "+" also before positive numbers."""
        if math.isnan(self.mean):
            return "-"
        mean, low, high = (f"{value:{sign}.{digits}f}" for value in self)
        return f"{mean} ({low} to {high})"


_NONE = Estimate(math.nan, math.nan, math.nan)


class Group(NamedTuple):
    """Some of N images: a name for what they have in common, what the name means, and which they are, (N,) bool."""

    name: str
    words: str
    chosen: Mask


def measure(model: HTCLIP, examples: Examples) -> tuple[Tensor, list[Row]]:
    """Run a calibrated model on examples that all have a lesion.

    Returns:
        The masks (N, S, S), and a row for each image: what :func:`ht_kernels.train.metrics.score` and
        :func:`ht_kernels.train.metrics.predict_with_signals` say of it, ``unfamiliar``, and its :func:`appearance`.
    """
    indices, device = range(len(examples)), next(model.parameters()).device
    assert model.familiarity is not None
    scale = model.familiarity.scale
    masks, signals = predict_with_signals(model, examples, indices, _BATCH, device)
    scores = score(examples, indices, masks, class_count(model.config.num_classes))
    rows = []
    for i, (scored, signal) in enumerate(zip(scores, signals, strict=True)):
        looks = appearance(examples.images[i, 0].numpy(), examples.targets[i].numpy() > 0)
        rows.append(scored | signal | {"unfamiliar": scale.unfamiliar(signal["distance"])} | looks)
    return masks, rows


def appearance(image: NDArray[np.uint8], lesion: Mask) -> dict[str, float]:
    """How a lesion looks in an image (H, W), from its true mask (H, W).

    Returns:
        ``area``: the share of the image that it covers. ``contrast``: its mean gray over that of the ring around it.
        ``shadow``: the mean gray below it over that beside the place below it. Below is the middle half of the mask's
        bounding box moved down by its height; beside are boxes of the same rows and half the width, to the left and the
        right of the bounding box. Boxes end at the image's edge; ``shadow`` is nan where nothing is left of them.
    """
    gray = image.astype(float)
    far = ndimage.distance_transform_edt(~lesion)
    ring = (far > 0) & (far <= image.shape[1] / RING)
    rows, columns = (np.flatnonzero(lesion.any(axis)) for axis in (1, 0))
    top, left, right = rows[-1] + 1, columns[0], columns[-1] + 1
    height, quarter = top - rows[0], (right - left) // 4
    under = gray[top : top + height]
    below = under[:, left + quarter : right - quarter]
    beside = np.hstack([under[:, max(0, left - 2 * quarter) : left], under[:, right : right + 2 * quarter]])
    return {
        "area": float(lesion.mean()),
        "contrast": float(gray[lesion].mean() / gray[ring].mean()),
        "shadow": float(below.mean() / beside.mean()) if below.size and beside.size else math.nan,
    }


def groups(rows: Sequence[Row], kinds: Mapping[str, str], alone: set[str]) -> list[Group]:
    """The groups that the card tells apart.

    Args:
        rows: the images, from :func:`measure`.
        kinds: the diagnosis of each image, by name.
        alone: the names of the images without a near duplicate in the other splits.
    """
    area, contrast, shadow = (np.array([row[name] for row in rows]) for name in ("area", "contrast", "shadow"))
    low, high = np.quantile(area, (1 / 3, 2 / 3))
    small, large = area <= low, area > high
    isoechoic, shadowed = abs(contrast - 1) < ALIKE, shadow <= 1 - ALIKE
    known, share = np.array([row["name"] in alone for row in rows]), f"{100 * ALIKE:.0f} %"
    found = [
        Group(kind, "by the label of the data set", np.array([kinds.get(row["name"]) == kind for row in rows]))
        for kind in sorted(set(kinds.values()))
    ]
    found += [
        Group("small", f"the third with the smallest lesions, up to {100 * low:.1f} % of the image", small),
        Group("middle", "the third between", ~small & ~large),
        Group("large", f"the third with the largest lesions, more than {100 * high:.1f} % of the image", large),
        Group(
            "isoechoic",
            f"the lesion's mean gray differs by less than {share} from that of a ring around it, whose width is a "
            f"{RING}th of the image's",
            isoechoic,
        ),
        Group(
            "shadowed", f"below the lesion it is at least {share} darker than to the left and right of there", shadowed
        ),
        Group("none of the three", f"neither {', '.join(HARD[:-1])} nor {HARD[-1]}", ~(small | isoechoic | shadowed)),
        Group("with a near duplicate", "one is in the training or validation split", ~known),
        Group("without one", "no image of the training or validation split is a near duplicate", known),
    ]
    return found


def reasons(found: Sequence[Group], index: int) -> list[str]:
    """What makes an image hard: the names of those of the groups :data:`HARD` that it is in."""
    return [group.name for group in found if group.name in HARD and group.chosen[index]]


def estimates(rows: Sequence[Row]) -> dict[str, Estimate]:
    """The mean of each of the :data:`SCORES` over images with a lesion, with its interval."""
    return {name: estimate(np.array([row[name] for row in rows])) for name in SCORES}


def estimate(values: Array) -> Estimate:
    """The mean of the values (N,) that are not nan, with its interval."""
    known = values[~np.isnan(values)]
    if len(known) == 0:
        return _NONE
    return Estimate(float(known.mean()), *interval(len(known), lambda drawn: known[drawn].mean(-1)))


def summarize(rows: Sequence[Row]) -> dict[str, object]:
    """The figures of some images: their number, the estimates, the lesions missed, and the images unfamiliar."""
    return {
        "images": len(rows),
        **estimates(rows),
        "missed": sum(row["missed"] for row in rows),
        "unfamiliar": sum(row["unfamiliar"] for row in rows),
    }


def agreement(rows: Sequence[Row]) -> Estimate:
    """Spearman's rank correlation of confidence and Dice over the outlined images, in the place of the mean."""
    confidence, dice = (np.array([row[name] for row in outlined(rows)]) for name in ("confidence", "dice"))
    if len(dice) == 0:
        return _NONE
    ends = interval(len(dice), lambda drawn: np.array([spearman(confidence[i], dice[i]) for i in drawn]))
    return Estimate(spearman(confidence, dice), *ends)


def outlined(rows: Sequence[Row]) -> list[Row]:
    """The rows of images whose mask has an outline, and so a confidence."""
    return [row for row in rows if math.isfinite(row["confidence"])]
