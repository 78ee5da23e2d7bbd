"""Image files: PNG, JPEG, TIFF, GIF and what else Pillow reads, as frames of 8 bits.

A frame is what a viewer shows:

- The orientation that a camera wrote into the file (EXIF) is applied. Colour profiles are not.
- Colours of a palette are looked up. Transparent pixels lie on black, as the surroundings of a scan do.
- 16-bit gray is scaled from its whole range, 0 to 65535, to 0 to 255, whatever values the picture has: two pictures of
  one scanner stay comparable. The range is that of 12 bits where a TIFF file states these, and up to the maximum that
  a PGM file states.
- Floating-point gray is scaled from 0 to 1. Other values are refused, because nothing says what white is; so are
  integers of more than 16 bits or with a sign.

An animation or a TIFF of several pages gives several frames.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from ht_kernels.errors import InputError, reason

from .frames import Frame, plausible_rate
from .source import Source

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jfif", ".jp2", ".bmp", ".tif", ".tiff"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".webp", ".avif", ".gif"),
)

_FORMATS = "PNG", "JPEG", "JPEG2000", "BMP", "DIB", "TIFF", "PPM", "WEBP", "AVIF", "GIF", "ICO", "PCX", "SGI"
"""What Pillow may take a file for. Some of its other formats are videos, or are drawn by a program that it starts."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How an EXIF orientation is undone."""

_SUBFILE, _BITS_PER_SAMPLE, _PHOTOMETRIC, _OLD_SUBFILE, _ORIENTATION, _SAMPLE_FORMAT = 254, 258, 262, 255, 274, 339
_WHITE_IS_ZERO, _SIGNED = 0, 2  # TIFF 6.0, sections 8 and 19
_REDUCED, _TRANSPARENCY, _OLD_REDUCED = 1, 4, 2

_SHOWN_BY_DEFAULT = 100.0
"""Milliseconds that browsers show a frame of an animation that asks for 10 or less."""

# Pillow reads these TIFF files in one order of bytes only, or with black at zero only.
for _key, _modes in {
    (TiffImagePlugin.MM, 0, (1,), 1, (16,), ()): ("I;16B", "I;16B"),
    (TiffImagePlugin.II, 0, (1,), 1, (12,), ()): ("I;16", "I;12"),
    (TiffImagePlugin.MM, 0, (1,), 1, (12,), ()): ("I;16", "I;12"),
    (TiffImagePlugin.MM, 1, (1,), 1, (12,), ()): ("I;16", "I;12"),
}.items():
    TiffImagePlugin.OPEN_INFO.setdefault(_key, _modes)


def is_image(path: Path) -> bool:
    """Whether the file is an image, be it one that is refused."""
    try:
        with opened(path):
            return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # Pillow raises errors of any kind on a damaged file
        return False


def open_image(path: Path) -> Source:
    """Open an image file. All its frames are decoded once, for only this tells how long each is shown.

    Raises:
        InputError: the file is damaged, or nothing says how bright its values are.
    """
    count, seconds = 0, 0.0
    size: tuple[int, int] | None = None
    for shown_for, frame in _decode(path):
        size = size or (frame.shape[0], frame.shape[1])
        count, seconds = count + 1, seconds + (shown_for or 0.0)
    assert size is not None
    fps = plausible_rate(count / seconds) if count > 1 and seconds else None
    names = (path.name,) if count == 1 else None
    return Source(path, "image", count if count > 1 else None, fps, size, lambda: decode_image(path), names=names)


def decode_image(path: Path) -> Iterator[tuple[float | None, Frame]]:
    """The frames of an image file, each with the seconds at which an animation shows it, or with None.

    Raises:
        InputError: the file is missing or damaged, or nothing says how bright its values are.
    """
    seconds = 0.0
    for shown_for, frame in _decode(path):
        yield (None if shown_for is None else seconds), frame
        seconds += shown_for or 0.0


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An image file in Pillow, without its pixels. Raises Pillow's errors, of any kind."""
    Image.init()  # this Pillow may lack some
    # Pillow maps a file that it is given the path of into memory, and then misreads a TIFF file that lies on its side.
    with path.open("rb") as file, Image.open(file, formats=[name for name in _FORMATS if name in Image.OPEN]) as image:
        yield image


def _decode(path: Path) -> Iterator[tuple[float | None, Frame]]:
    """The frames of an image file, and for how many seconds an animation shows each."""
    try:
        with opened(path) as image:
            for page in _pages(image):
                image.seek(page)
                before = _to_go_back_to(image)
                frame = show(image)
                if before is not None:
                    image._prev_im = before
                milliseconds = image.info.get("duration")  # WebP says it when the frame was decoded
                if milliseconds is None and image.format == "GIF" and image.is_animated:
                    milliseconds = 0
                if milliseconds is None:
                    yield None, frame
                else:
                    yield (milliseconds if milliseconds > 10 else _SHOWN_BY_DEFAULT) / 1000, frame
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except InputError as error:
        raise InputError(f"{path} cannot be shown: {error}") from None
    except UnidentifiedImageError as error:
        raise InputError(
            f"{path} cannot be read as an image: its content is that of none, or of a kind that is not supported; "
            "save it as 8-bit PNG"
        ) from error
    except Exception as error:  # as above
        raise InputError(f"{path} cannot be read as an image: {reason(error)}") from error


def _to_go_back_to(image: Any) -> Any:
    """What an animated PNG shows again after the frame that is about to be decoded; None where that frame stays.

    Pillow lays such a frame over the only copy of what was there before, and so cannot go back to it.
    """
    previous = getattr(image, "_prev_im", None)
    return previous.copy() if previous and image.info.get("disposal") == PngImagePlugin.Disposal.OP_PREVIOUS else None


def _pages(image: Any) -> Iterable[int]:
    """Numbers of the pages that are pictures of their own."""
    if image.format == "MPO":  # a photograph, and after it its depth or another view, which viewers do not show
        return [0]
    count = getattr(image, "n_frames", 1)
    if image.format != "TIFF":
        return range(int(image.info.get("default_image", False)), count)  # an animated PNG may begin with a still image
    pictures = []
    for page in range(count):
        image.seek(page)
        if not _tag(image, _SUBFILE, 0) & (_REDUCED | _TRANSPARENCY) and _tag(image, _OLD_SUBFILE, 1) != _OLD_REDUCED:
            pictures.append(page)
    return pictures or [0]


def show(image: Image.Image) -> Frame:
    """An image as a viewer shows it: uint8, (H, W) gray or (H, W, 3) RGB.

    Raises:
        InputError: it has no pixels, or nothing says which of its values is white.
    """
    if min(image.size) < 1:
        raise InputError(f"it has {image.size[0]}x{image.size[1]} pixels")
    if _tag(image, _SAMPLE_FORMAT, 1) == _SIGNED:
        raise InputError("its values are integers with a sign, and nothing says which is white; save it as 8-bit gray")
    turned = upright(image)
    if turned.mode.startswith("I") or turned.mode == "F":
        values = np.asarray(turned)
        gray = _gray(values, white_of(image))
        if has_white_at_zero(image):
            gray = 255 - gray
        transparent = image.info.get("transparency")
        return gray if transparent is None else np.where(values == transparent, np.uint8(0), gray)
    if image.format in ("JPEG", "MPO") and image.mode == "CMYK" and "adobe" not in image.info:
        turned = ImageChops.invert(turned)  # Pillow takes all for Adobe's, which store the inverse
    colour = turned.mode not in ("1", "L", "LA", "La")
    if turned.has_transparency_data:
        turned = Image.alpha_composite(Image.new("RGBA", turned.size, (0, 0, 0, 255)), turned.convert("RGBA"))
    return np.asarray(turned.convert("RGB" if colour else "L"))


def upright(image: Image.Image) -> Image.Image:
    """An image turned and mirrored as its file says."""
    image.load()  # Pillow turns TIFF files itself, and then forgets their orientation
    orientation = None
    with contextlib.suppress(Exception):  # an EXIF block that is damaged says nothing
        orientation = image.getexif().get(_ORIENTATION)
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def has_white_at_zero(image: Image.Image) -> bool:
    """Whether white is 0 in a TIFF file of 16 bits or of floating point; of 8 bits, Pillow inverts it itself."""
    return _tag(image, _PHOTOMETRIC, 1) == _WHITE_IS_ZERO


def white_of(image: Image.Image) -> float:
    """The value of white in an image of 16 bits or of floating point.

    Raises:
        InputError: it has more bits.
    """
    if image.mode == "F":
        return 1.0
    bits = _tag(image, _BITS_PER_SAMPLE, 16)
    if bits > 16:
        raise InputError(
            f"its values are integers of {bits} bits, and nothing says which is white; save it as 8-bit gray"
        )
    return 2.0**bits - 1


def _gray(values: NDArray[Any], white: float) -> Frame:
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= white:  # false for NaN, too
        raise InputError(f"its values are {low:g} to {high:g}, expected 0 to {white:g}; save it as 8-bit gray")
    if values.dtype.kind == "f":
        return np.rint(values * (255 / white)).astype(np.uint8)
    shown: Frame = np.rint(np.arange(int(white) + 1) * (255 / white)).astype(np.uint8)  # a table needs less memory
    return np.take(shown, values)


def _tag(image: Image.Image, number: int, default: int) -> int:
    """A TIFF tag of one number, or of the same for each channel."""
    value = getattr(image, "tag_v2", {}).get(number, default)
    return int(value[0] if isinstance(value, tuple) else value)
