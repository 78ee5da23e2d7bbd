"""Numbers that callers pass, be they of Python, NumPy or torch."""

from __future__ import annotations

import numbers
import operator
from typing import Any

from ht_kernels.choices import LARGEST_SIDE
from ht_kernels.errors import InputError


def whole(value: Any) -> int | None:
    """The whole number that a value is, or None: truth values, text and fractions are none."""
    if isinstance(value, int):
        return None if isinstance(value, bool) else value
    try:
        return operator.index(value)
    except TypeError:
        return None


def need_whole(name: str, value: Any) -> int:
    """The whole number that an argument is.

    Raises:
        TypeError: it is none; the message names the argument.
    """
    number = whole(value)
    if number is None:
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    return number


def need_side(name: str, value: Any) -> int:
    """The side in pixels that an argument gives the images of a model.

    Raises:
        InputError: no image has so many; the message names the argument.
        TypeError: it is no whole number.
    """
    side = need_whole(name, value)
    if not 1 <= side <= LARGEST_SIDE:
        raise InputError(f"{name} {side} was given, expected 1 to {LARGEST_SIDE} pixels")
    return side


def pair(value: Any) -> tuple[int, int] | None:
    """The two whole numbers that a value has, such as a size (height, width); None if it is anything else."""
    try:
        found = [whole(number) for number in value]
    except TypeError:
        return None
    if len(found) != 2 or found[0] is None or found[1] is None:
        return None
    return found[0], found[1]


def is_real(value: Any) -> bool:
    """Whether a value is a number that can be compared with others; NaN is one, a truth value is not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
