"""Dilation of masks: regions grow by a number of pixels."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Value = TypeVar("Value", np.bool_, np.int32)


def dilate(values: NDArray[Value], reach: int, axis: int) -> NDArray[Value]:
    """The largest of the values (H, W) within ``reach`` pixels along an axis; of a mask, whether one of them is set."""
    largest = values.copy()
    of, into = np.moveaxis(values, axis, 0), np.moveaxis(largest, axis, 0)
    for step in range(1, min(reach, len(of) - 1) + 1):
        np.maximum(into[step:], of[:-step], out=into[step:])
        np.maximum(into[:-step], of[step:], out=into[:-step])
    return largest
