"""How large a pixel is: what a file says of the parts of its frames, or a user of all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ht_kernels.errors import InputError

from .frames import Box

SMALLEST, LARGEST = 1e-4, 10.0
"""Millimetres that a side of a pixel of ultrasound may have: damaged files state anything."""


class Spacing(NamedTuple):
    """The width and the height of a pixel, in millimetres."""

    x: float
    y: float


class Scale(NamedTuple):
    """A part of a frame, None for all of it, and the spacing of its pixels, None where that is not known."""

    box: Box | None
    spacing: Spacing | None


def as_spacing(value: Any) -> Spacing:
    """A spacing of one number for square pixels, or of two, for x and y, in millimetres.

    Raises:
        InputError: it is neither, or beyond :data:`SMALLEST` to :data:`LARGEST`.
    """
    try:
        numbers = [float(value)] * 2 if isinstance(value, (int, float)) else [float(side) for side in value]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 2 or not all(SMALLEST <= side <= LARGEST for side in numbers):
        raise InputError(
            f"the spacing is {value!r}, expected the side of a pixel in millimetres, or its width and height, each "
            f"from {SMALLEST:g} to {LARGEST:g}"
        )
    return Spacing(*numbers)


def plausible_spacing(x: float, y: float) -> Spacing | None:
    """The spacing that a file states, or None where no scanner has such pixels. A sign is a direction."""
    sides = Spacing(round(abs(x), 9), round(abs(y), 9))
    return sides if all(math.isfinite(side) and SMALLEST <= side <= LARGEST for side in sides) else None


def common_spacing(scales: Iterable[Scale]) -> Spacing | None:
    """The spacing that all scales have; None where they differ, one is not known, or there is none."""
    found = {scale.spacing for scale in scales}
    return found.pop() if len(found) == 1 else None


def pixel_area(scales: Iterable[Scale]) -> float | None:
    """The area of a pixel in mm², where all scales have one spacing; else None."""
    spacing = common_spacing(scales)
    return None if spacing is None else spacing.x * spacing.y


def spacing_at(scales: Sequence[Scale], box: Box) -> Spacing | None:
    """The spacing of a part of a frame: that of the scales which it touches, or of all where it touches none.

    None where these differ, as two depths side by side do, or one is not known.
    """
    touched = [scale for scale in scales if scale.box is None or _touch(scale.box, box)]
    return common_spacing(touched or scales)


def _touch(a: Box, b: Box) -> bool:
    return a.x < b.x + b.width and b.x < a.x + a.width and a.y < b.y + b.height and b.y < a.y + a.height
