"""Masks whose values are the numbers of classes, from 0, the background, on.

The value of a pixel is its gray level in 8 or 16 bits, or its index in a palette, whatever the colours there.
Compression with loss changes values, so only files without it are read: PNG, BMP, GIF, and TIFF without JPEG inside.
The orientation in the file (EXIF) is applied, as it is to images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ht_kernels.errors import InputError, reason

from .image import opened, upright

MOST = 32
"""A data set has at most so many classes of pixels, the background among them."""

_WITHOUT_LOSS = "PNG", "TIFF", "BMP", "DIB", "GIF"
_SHOWN = 8
"""Of more values than these a message names the first only."""


def read_class_mask(path: Path, classes: Sequence[str]) -> NDArray[np.uint8]:
    """The mask in an image file, (H, W) uint8: the number of a class for each pixel.

    Args:
        path: the file.
        classes: their names, background first; at most 256.

    Raises:
        InputError: the file is damaged, may have been compressed with loss or has no class numbers, or one of its
            values is no class. The message names the file, the values and the classes.
    """
    numbers = _read(path)
    others = [int(n) for n in np.unique(numbers) if not 0 <= n < len(classes)]
    if others:
        shown = ", ".join(map(str, others[:_SHOWN])) + (", ..." if len(others) > _SHOWN else "")
        known = ", ".join(f"{number} ({name})" for number, name in enumerate(classes))
        raise InputError(
            f"the mask {path} has the value{'s' if len(others) > 1 else ''} {shown}, and the classes are {known}"
        )
    return numbers.astype(np.uint8)


def numbers_in(path: Path) -> tuple[int, ...]:
    """The different values of a mask that may be numbers of classes, in ascending order.

    They are empty for a file that :func:`read_class_mask` does not read, and for one with more than :data:`MOST` of
    them, whose values are levels of gray. A palette of grays stands for these grays, unless it has one or two entries:
    programs make such palettes of smooth edges.
    """
    try:
        numbers = _read(path, by_gray=True)
    except InputError:
        return ()
    found = np.unique(numbers)
    return tuple(found.tolist()) if len(found) <= MOST else ()


def _read(path: Path, by_gray: bool = False) -> NDArray[Any]:
    """The values (H, W) of a mask; of a palette of three or more grays the grays, if ``by_gray``."""
    try:
        with opened(path) as image:
            pictures, kind = getattr(image, "n_frames", 1), image.format
            lossy = kind not in _WITHOUT_LOSS or image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp")
            turned = upright(image)
            values = np.asarray(turned)
            if by_gray and turned.mode == "P" and len(np.unique(values)) > 2:
                colours = np.asarray(turned.convert("RGB"))
                values = colours[..., 0] if (colours == colours[..., :1]).all() else values
    except FileNotFoundError:
        raise InputError(f"the mask {path} is missing") from None
    except Exception as error:  # Pillow raises errors of any kind on a damaged file
        raise InputError(f"the mask {path} cannot be read as an image: {reason(error)}") from error
    if pictures > 1:
        raise InputError(f"{path} has {pictures} pictures, expected one mask")
    if lossy:
        raise InputError(
            f"the mask {path} is stored as {kind}, which may change values, and values are numbers of classes: save it "
            "as PNG from the original"
        )
    if turned.mode == "RGB" and (values == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim != 2 or not (values.dtype == bool or np.issubdtype(values.dtype, np.integer)):
        raise InputError(
            f"the mask {path} has pixels of the kind {turned.mode}, expected the numbers of classes as 8- or 16-bit "
            "gray or as indices of a palette"
        )
    return values.astype(np.uint8) if values.dtype == bool else values
