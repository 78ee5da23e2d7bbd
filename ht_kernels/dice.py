"""The Dice coefficient of two masks."""

from __future__ import annotations

import math
from typing import Any


def dice(one: Any, other: Any) -> float:
    """Twice the area that two regions share, divided by the sum of their areas.

    It is 0 if the regions do not overlap, 1 if they are equal, and nan if both are empty. The regions are boolean
    arrays or tensors of the same shape.
    """
    area = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / area if area else math.nan
