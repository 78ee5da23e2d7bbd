"""When and where a frame was taken, so that what is made of it can be laid over it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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

    def _axes(self) -> NDArray[np.float64]:
        return np.array(self.matrix[:9], dtype=np.float64).reshape(3, 3)
