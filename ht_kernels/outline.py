"""The outline of a connected region of pixels, as a polygon."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_STEPS = (1, 0), (0, 1), (-1, 0), (0, -1)
"""The four directions (x, y), each a turn to the right of the one before, as y goes down."""


def outline(region: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The corners (x, y) of the outer border of a connected region (H, W), from its uppermost pixel to the right.

    The border runs along the sides of pixels, and the last corner is followed by the first. Holes are not told. Where
    two pixels share a corner only, the border passes it twice, since both are of the region.
    """
    padded = np.pad(region, 1)
    # A side goes in a direction where a pixel is on its right hand and none on its left.
    below_right, below_left = padded[1:, 1:], padded[1:, :-1]  # of each corner
    above_right, above_left = padded[:-1, 1:], padded[:-1, :-1]
    sides = below_right & ~above_right, below_left & ~below_right, above_left & ~below_left, above_right & ~above_left
    start = int(np.flatnonzero(region[0])[0]), 0
    (x, y), way = start, 0
    corners = [start]
    while True:
        x, y = x + _STEPS[way][0], y + _STEPS[way][1]
        if (x, y) == start:  # left of it and above there is no pixel, so it is passed once
            return corners
        for turn in (3, 0, 1):  # to the left first, to a pixel that shares a corner only
            following = (way + turn) % 4
            if sides[following][y, x]:
                break
        if following != way:
            corners.append((x, y))
            way = following
