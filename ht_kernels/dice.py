"""The Dice coefficient, by which masks are compared."""

from __future__ import annotations

import math
from typing import Any


def dice(one: Any, other: Any) -> float:
    """Twice the area that two regions share, over the sum of their areas: 0 where they are apart, 1 where they agree.

    The regions are boolean arrays or tensors of one shape. The coefficient of two empty regions is nan.
    """
    area = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / area if area else math.nan
