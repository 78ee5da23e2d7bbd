"""One image of a download, with all that its preparation needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Mask = Callable[[Path, tuple[int, int]], NDArray[np.uint8]]
"""From the image's path and (width, height) to its mask, (height, width) uint8, numbers of classes; may raise Unusable.
"""


class Unusable(Exception):
    """The image cannot be used, and is left out and reported; the message is the reason."""


@dataclass(frozen=True)
class Item:
    """One image.

    Attributes:
        name: of the file in the layout, as text; see :mod:`ht_kernels.data.names`.
        image: where it lies in the download.
        mask: reads or draws its mask; None for an image that only has a label.
        label: 0, 1, ... or None where the download has none.
        group: images of one group, such as those of a patient, stay in one split.
        split: the split that the download itself prescribes, or None.
    """

    name: str
    image: Path
    mask: Mask | None
    label: int | None
    group: str
    split: str | None = None


@dataclass
class Download:
    """What was found in a download, or in a user's folder.

    Attributes:
        dataset: its name in the layout.
        items: its images.
        left_out: for each image left out, why.
        classes: names of the labels; empty where they are not known.
        mask_classes: names of the classes in masks, the background first; empty for a lesion without a name.
        notes: what the user should know about how it was read, a sentence each.
    """

    dataset: str
    items: list[Item]
    left_out: dict[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    mask_classes: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
