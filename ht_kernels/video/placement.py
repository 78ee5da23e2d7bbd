"""When and where a frame was taken, so that what is made of it can be laid over it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ht_kernels.media.scale import Spacing, plausible_spacing

_FRACTION = 1 << 32
"""Parts of a second in a time stamp."""


@dataclass(frozen=True)
class Placement:
    """When and where a frame was taken, in the terms of OpenIGTLink's IMAGE message, so that nothing of it is rounded.

    Attributes:
        timestamp: seconds since 1970 (UTC) times 2^32, an unsigned number of 64 bits.
        size: pixels along the axes i, j and k; i is along a row. One of them is 1, as the frame is a single slice.
        matrix: the axes i, j and k, each a direction times the spacing in mm, then the centre of the image in mm; 12
            numbers.
        coordinates: ``RAS`` or ``LPS``, the directions that the three numbers of an axis or a position count along.
    """

    timestamp: int
    size: tuple[int, int, int]
    matrix: tuple[float, ...]
    coordinates: str = "RAS"

    @classmethod
    def unknown(cls, height: int, width: int) -> Placement:
        """For a frame whose source says nothing: taken when this is called, pixels of 1 mm, around the origin."""
        axes = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
        return cls(int(time.time() * _FRACTION), (width, height, 1), axes)

    @property
    def seconds(self) -> float:
        """The time in seconds since 1970."""
        return self.timestamp / _FRACTION

    @property
    def spacing(self) -> NDArray[np.float64]:
        """Distances of pixels along i, j and k in mm, (3,)."""
        return np.asarray(np.linalg.norm(self._axes(), axis=1))

    @property
    def directions(self) -> NDArray[np.float64]:
        """The unit vectors of i, j and k, one in each row, (3, 3); an axis of no length stays 0."""
        spacing = self.spacing[:, None]
        return np.divide(self._axes(), spacing, out=np.zeros((3, 3)), where=spacing > 0)

    @property
    def origin(self) -> NDArray[np.float64]:
        """The position of the centre of the first pixel in mm, (3,)."""
        steps = (np.array(self.size) - 1) / 2
        return np.asarray(np.array(self.matrix[9:]) - steps @ self._axes())

    @property
    def pixel(self) -> Spacing | None:
        """The size of a pixel; None where it is no scanner's, or 1 by 1 mm, which senders state that do not know it."""
        x, y = (float(self.spacing[axis]) for axis in plane_axes(self.size))
        return None if x == y == 1 else plausible_spacing(x, y)

    def _axes(self) -> NDArray[np.float64]:
        return np.array(self.matrix[:9], dtype=np.float64).reshape(3, 3)


def plane_axes(size: Sequence[int]) -> tuple[int, int]:
    """The axes of a slice, with so many pixels along i, j and k, that go along its rows and its columns.

    The other has a single pixel; it is k where there are several of these.
    """
    single = max(axis for axis in range(3) if size[axis] == 1)
    row, column = (axis for axis in range(3) if axis != single)
    return row, column
