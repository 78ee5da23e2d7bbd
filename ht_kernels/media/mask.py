"""Masks: which pixels of an image are lesion.

A mask file holds two values: black outside, and one brighter value inside. A pixel is inside where its value is larger
than half of the latter, which is the median of what is larger than half of the file's maximum, because JPEG overshoots
along edges. So masks of 0 and 1 and of 0 and 255 read alike, in 1, 8, 16 or 32 bits or in floating point. The value of
a coloured pixel is that of its brightest channel. Nothing is dithered, unlike in the published code, where
``convert("1")`` scatters the grays along an edge.

- Alpha is the mask where it varies and all pixels that it shows have one colour. Where these vary too, they lie on
  black. Alpha that does not vary is ignored.
- Palettes: the colours decide where black is among them, or where all is white. Otherwise indices 0 and 1 are outside
  and inside.
- The orientation in the file (EXIF) is applied, as it is to images.
- Other values are refused, because nothing says what they mean: several gray levels or colours, photographs,
  gradients, values without black. Masks of several classes are read by :mod:`ht_kernels.media.class_mask`.

The limits were chosen on 446 masks and images of BUSI, at most 320 pixels wide. The masks were written as JPEG of
quality 10, 15 to 95, reduced 2, 4 and 8 times, enlarged again, and blurred (Gauss, 2 pixels). None was refused but for
those enlarged again by the nearest pixel: 1 of those with steps of 4 pixels, 152 of those with steps of 8.

- Pixels between a quarter and three quarters of the value inside are at most 12 % of a mask: in JPEGs 0.7 %, in all
  those masks 6.6 %, in the images 19 % or more. They are at most 0.6 times as many as those inside, or 2 % of the mask:
  those masks have at most 0.47 times as many where they are more than 2 %.
- At quality 30 the area inside was wrong by at most 0.2 %, and at quality 10 by 0.9 %.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ht_kernels.errors import InputError, reason

from .class_mask import MOST
from .image import has_white_at_zero, is_image, opened, upright, white_of
from .opening import read_image

_MOST_BETWEEN = 0.12
"""The share of a mask that may be neither black nor bright."""
_SOME, _BETWEEN_TO_INSIDE = 0.02, 0.6
"""Beyond the first share of the mask, such pixels may be the second share of those inside."""
_THIRD_TO_INSIDE, _FEW_THIRD_TO_INSIDE = 0.35, 0.02
"""Areas of a third value may be this share of the pixels inside; and this, where the file has few values."""
_OTHER_COLOUR = 0.002
"""The share of a mask that may have another colour than most pixels inside."""
_FEW = 4
"""A picture of so few values was not compressed or resized, so that each of them means something."""


def read_mask(path: Path) -> NDArray[np.uint8]:
    """The mask in an image or DICOM file, (H, W) uint8: 1 inside and 0 outside.

    Raises:
        InputError: the file is missing or damaged, has several pictures, or its values are no mask.
    """
    # What is no image is DICOM, or read_image says why it has no picture.
    values = _read(path) if is_image(path) else np.asarray(read_image(path))
    try:
        return inside(values)
    except InputError as error:
        raise InputError(
            f"the mask {path} {error}; expected two values, black outside and one brighter value inside"
        ) from None


def inside(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Where (H, W) or (H, W, 3) values of a mask are larger than half of the value inside: (H, W) uint8, 0 or 1.

    Raises:
        InputError: the values are no mask; the message is the end of a sentence that begins with the file.
    """
    gray = values.max(-1) if values.ndim == 3 else values
    low, high = float(gray.min()), float(gray.max())
    if not 0 <= low <= high < np.inf:  # false for NaN, too
        raise InputError(f"has values of {low:g} to {high:g}")
    if high == 0:
        return np.zeros(gray.shape, np.uint8)
    level = float(np.median(gray[gray > high / 2]))
    marked = gray > level / 2
    if low < high:
        _check_levels(gray, marked, level)
    if values.ndim == 3:
        _check_colour(values, marked, level)
    return marked.astype(np.uint8)


def _check_levels(gray: NDArray[Any], marked: NDArray[np.bool_], level: float) -> None:
    """Raise InputError unless nearly all pixels are black or about as bright as ``level``."""
    found = np.unique(gray)
    few = len(found) <= _FEW
    said = f"has the values {_listed(found)}" if few else f"has {len(found)} values from {found[0]:g} to {found[-1]:g}"
    if marked.all():
        raise InputError(f"{said}, and none is black")
    if len(found) > 2 and found[-1] < MOST and np.issubdtype(gray.dtype, np.integer):
        raise InputError(said)
    inside, every = np.count_nonzero(marked), gray.size
    between = np.count_nonzero((gray > level / 4) & (gray < level * 3 / 4))
    if between > _MOST_BETWEEN * every or between > max(_SOME * every, _BETWEEN_TO_INSIDE * inside):
        raise InputError(f"{said}, and {between / every:.0%} of its pixels are neither black nor bright")
    near = 0 if few else level / 16
    values, black = gray.astype(np.float64), float(np.median(gray[~marked]))
    third = np.count_nonzero(flat(gray) & (abs(values - black) > near) & (abs(values - level) > near))
    if third > (_FEW_THIRD_TO_INSIDE if few else _THIRD_TO_INSIDE) * inside:
        raise InputError(f"{said}, and {third / every:.1%} of its pixels lie in areas of a third value")


def _check_colour(values: NDArray[Any], marked: NDArray[np.bool_], level: float) -> None:
    """Raise InputError unless nearly all marked pixels have about the same colour."""
    colour = np.median(values[marked], axis=0)
    other = np.count_nonzero(marked & (abs(values.astype(np.float64) - colour).max(-1) >= level / 2))
    if other > _OTHER_COLOUR * marked.size:
        raise InputError(f"has several colours: {other / marked.size:.1%} of its pixels have another than most")


def _listed(values: NDArray[Any]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def flat(gray: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether the eight neighbours of a pixel have its value; false at the border."""
    flat = np.zeros(gray.shape, bool)
    rows = (gray[:, 1:-1] == gray[:, :-2]) & (gray[:, 1:-1] == gray[:, 2:])
    columns = (gray[1:-1] == gray[:-2]) & (gray[1:-1] == gray[2:])
    flat[1:-1, 1:-1] = rows[:-2] & rows[1:-1] & rows[2:] & columns[:, 1:-1]
    return flat


def _read(path: Path) -> NDArray[Any]:
    """The values of an image file's mask: (H, W), or (H, W, 3) where they are colours."""
    try:
        with opened(path) as image:
            pictures = getattr(image, "n_frames", 1)
            values = values_of(image)
    except Exception as error:  # Pillow raises errors of any kind on a damaged file
        raise InputError(f"{path} cannot be read as an image: {reason(error)}") from error
    if pictures > 1:
        raise InputError(f"{path} has {pictures} pictures, expected one mask")
    return values


def values_of(image: Image.Image) -> NDArray[Any]:
    turned = upright(image)
    if turned.mode.startswith("I") or turned.mode == "F":
        values = np.asarray(turned)
        return white_of(image) - values if has_white_at_zero(image) else values
    if turned.has_transparency_data:
        return _shown(np.asarray(turned.convert("RGBA")))
    if turned.mode == "P":
        return _of_palette(np.asarray(turned), np.asarray(turned.convert("RGB")))
    return np.asarray(turned.convert("L" if turned.mode in ("1", "L") else "RGB"))


def _shown(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Alpha where it alone makes the picture; else the colours, on black."""
    colours, alpha = rgba[..., :3], rgba[..., 3]
    if alpha.min() == alpha.max():
        return colours
    visible = colours[alpha > 0]
    if (visible == visible[0]).all():
        return alpha
    return np.rint(colours * (alpha[..., None] / 255)).astype(np.uint8)


def _of_palette(indices: NDArray[np.uint8], colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    has_black = not colours.any(-1).all()
    if has_black or (colours == 255).all() or indices.max() > 1:
        return colours
    return indices
