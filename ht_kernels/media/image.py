"""Image files: PNG, JPEG, TIFF, GIF and what else Pillow reads, as frames of 8 bits.

A frame is what a viewer shows:

- The orientation that a camera wrote into the file (EXIF) is applied.
- Colours of a palette are looked up. Transparent pixels lie on black, as the surroundings of a scan do.
- 16-bit gray is scaled from its whole range, 0 to 65535, to 0 to 255, whatever values the picture has: two pictures of
  one scanner stay comparable. The range is that of 10, 12 or 14 bits where a TIFF file states these.
- Floating-point gray is scaled from 0 to 1. Other values are refused, because nothing says what white is.

An animation or a TIFF of several pages gives several frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, ImageSequence

from ht_kernels.errors import InputError, reason

from .frames import Frame

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".webp", ".gif")

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SUBFILE = 258, 262, 254  # TIFF 6.0, section 8
_WHITE_IS_ZERO, _REDUCED = 0, 1
_SHOWN_BY_DEFAULT = 100.0
"""Milliseconds that browsers show a frame of an animation that asks for 10 or less."""


def is_image(path: Path) -> bool:
    """Whether Pillow takes the file for an image."""
    try:
        with Image.open(path):
            return True
    except Exception:  # Pillow raises errors of any kind on a damaged file
        return False


def decode_image(path: Path) -> Iterator[tuple[float | None, Frame]]:
    """The frames of an image file, each with the seconds at which an animation shows it, or with None.

    Raises:
        InputError: the file is missing or damaged, or nothing says how bright its values are.
    """
    try:
        with Image.open(path) as image:
            seconds = 0.0
            for page in _pages(image):
                frame = show(page)
                milliseconds = page.info.get("duration")  # WebP says it when the frame was decoded
                yield (None if milliseconds is None else seconds), frame
                seconds += (milliseconds if milliseconds and milliseconds > 10 else _SHOWN_BY_DEFAULT) / 1000
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except InputError as error:
        raise InputError(f"{path} cannot be shown: {error}") from None
    except Exception as error:  # as above
        raise InputError(f"{path} cannot be read as an image: {reason(error)}") from error


def _pages(image: ImageFile.ImageFile) -> Iterator[Image.Image]:
    """The pages of a file that are pictures of their own: no thumbnails, and not the still image of an animated PNG."""
    if image.format == "MPO":  # a photograph, and after it its depth or another view, which viewers do not show
        yield image
        return
    for i, page in enumerate(ImageSequence.Iterator(image)):
        still = i == 0 and image.info.get("default_image", False)
        if not (still or _tag(page, _SUBFILE, 0) & _REDUCED):
            yield page


def show(image: Image.Image) -> Frame:
    """An image as a viewer shows it: uint8, (H, W) gray or (H, W, 3) RGB.

    Raises:
        InputError: nothing says which of its values is white.
    """
    upright = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        gray = _gray(np.asarray(upright), _white(image))
        return 255 - gray if _tag(image, _PHOTOMETRIC, 1) == _WHITE_IS_ZERO else gray
    colour = upright.mode not in ("1", "L", "LA", "La")
    if upright.has_transparency_data:
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, (0, 0, 0, 255)), upright.convert("RGBA"))
    return np.asarray(upright.convert("RGB" if colour else "L"))


def _white(image: Image.Image) -> float:
    """The value of white in an image of 16 bits or of floating point."""
    if image.mode == "F":
        return 1.0
    bits = _tag(image, _BITS_PER_SAMPLE, 16)
    return 2.0 ** min(bits, 16) - 1


def _gray(values: NDArray[Any], white: float) -> Frame:
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= white:  # false for NaN, too
        raise InputError(f"its values are {low:g} to {high:g}, expected 0 to {white:g}; save it as 8-bit gray")
    return np.rint(values * (255 / white)).astype(np.uint8)


def _tag(image: Image.Image, number: int, default: int) -> int:
    """A TIFF tag of one number, or of the same for each channel."""
    value = getattr(image, "tag_v2", {}).get(number, default)
    return int(value[0] if isinstance(value, tuple) else value)
