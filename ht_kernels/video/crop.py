"""The part of a frame that the model sees: the scan, without the text and bars around it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ht_kernels.dilation import Value, dilate
from ht_kernels.errors import InputError
from ht_kernels.media.frames import Box, Frame

_LONG_SIDE = 160
"""The scan is sought in a reduced frame, whose longer side has this many pixels."""

_DARK = 4
"""Pixels up to this gray level are background."""

_SMALLEST = 0.02
"""A region that covers a smaller share of the frame is not taken for the scan."""


def check_crop(crop: Any) -> None:
    """Raise InputError unless ``crop`` says what a model sees of a frame: ``auto``, a box, or None for all of it."""
    if not (crop is None or isinstance(crop, Box) or (isinstance(crop, str) and crop == "auto")):
        raise InputError(f"crop is {crop!r}, expected auto, a Box(x, y, width, height) in pixels, or None")


class AutoCrop:
    """Finds the scan in the first frame that shows one, and keeps to its box until frames have another size."""

    def __init__(self) -> None:
        self._size: tuple[int, ...] = ()
        self._box: Box | None = None

    def __call__(self, frame: Frame) -> Box:
        """The box of the scan, or the whole frame while none is seen."""
        if frame.shape[:2] != self._size:
            self._size, self._box = frame.shape[:2], None
        self._box = self._box or find_scan(frame)
        return self._box or Box(0, 0, frame.shape[1], frame.shape[0])


def find_scan(frame: Frame) -> Box | None:
    """The box around the largest region of speckle; None if there is none.

    A pixel counts as speckle if it is brighter than the background and differs from a neighbour. Nearly all pixels of
    a scan do. Text does only along its strokes, bars and banners are flat, and lines and scales are so thin that they
    vanish when regions are shrunk.
    """
    gray = np.asarray(Image.fromarray(frame).convert("L"))
    speckle = np.zeros(gray.shape, dtype=bool)
    speckle[:, :-1] |= gray[:, :-1] != gray[:, 1:]
    speckle[:-1] |= gray[:-1] != gray[1:]
    speckle &= gray > _DARK
    height, width = gray.shape
    scale = max(2.0, max(height, width) / _LONG_SIDE)
    size = max(1, round(width / scale)), max(1, round(height / scale))
    share = Image.fromarray(np.uint8(255) * speckle).resize(size, Image.Resampling.BOX)
    solid = np.asarray(share) > 127
    region = _largest_region(_grow(~_grow(~solid, 2), 2))
    if region.mean() < _SMALLEST:
        return None
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    left, top = int(columns[0] * scale), int(rows[0] * scale)
    right, bottom = min(width, round((columns[-1] + 1) * scale)), min(height, round((rows[-1] + 1) * scale))
    return Box(left, top, right - left, bottom - top)


def _grow(values: NDArray[Value], reach: int) -> NDArray[Value]:
    """The largest value in the square around each pixel; beyond the border there is none."""
    return dilate(dilate(values, reach, 0), reach, 1)


def _largest_region(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The connected region (H, W) with the most pixels.

    Each pixel starts with a number of its own and takes over the largest of its neighbours', until every region has one
    number.
    """
    labels = np.arange(1, mask.size + 1, dtype=np.int32).reshape(mask.shape) * mask
    while True:
        spread = _grow(labels, 1) * mask
        if np.array_equal(spread, labels):
            break
        labels = spread
    counts = np.bincount(labels.ravel())
    counts[0] = 0
    region: NDArray[np.bool_] = mask & (labels == counts.argmax())
    return region
