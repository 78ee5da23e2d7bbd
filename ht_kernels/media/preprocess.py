"""From a frame to what the models take, as published: gray, then resized."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ht_kernels import compiled
from ht_kernels.arguments import pair, whole
from ht_kernels.errors import InputError
from ht_kernels.threads import usual

from .frames import Frame
from .source import Source

RESIZING = "bicubic with antialiasing, aspect ratio not kept"
"""How a frame is resized, in words."""

_LARGEST_SIDE = 2**20
_MOST_PIXELS = 2**28
"""Of the result, and of the frame at its width: far more than any model takes, and a quarter of a gigabyte."""

_MOST_THREADS = 1024


def preprocess(frame: Frame, size: tuple[int, int], *, threads: int | None = None) -> NDArray[np.uint8]:
    """A frame, (H, W) or (H, W, 3) uint8, as an array (1, 1, *size) uint8 with values 0 to 255.

    Gray is the ITU-R 601 luma, the resize Pillow's bicubic one, across and then down, as in the published code; the
    aspect ratio is not kept. The scaling to [0, 1] and the repetition to three channels are folded into the model.

    The compiled core does it in one pass over the frame, which may be a view, such as a crop, without a copy. Without
    the core :func:`by_pillow` does; the result is the same, bit for bit.

    Args:
        frame: the frame.
        size: (height, width) of the result.
        threads: how many the core may use, from 1 to 1024; by default as many as
            :func:`ht_kernels.threads.usual` says.

    Raises:
        InputError: the frame is empty, or has another shape or dtype; a side of it or of the result is not from 1 to
            2**20 pixels long; the result, or the frame at the width of the result, has more than 2**28 pixels; or
            ``threads`` is out of range.
    """
    height, width = _check(frame, size)
    used = whole(usual() if threads is None else threads)
    if used is None or not 1 <= used <= _MOST_THREADS:
        raise InputError(f"threads must be a whole number from 1 to {_MOST_THREADS}, got {threads!r}")
    if compiled.missing:
        return by_pillow(frame, (height, width))
    whole_pixels = (3, 1) if frame.ndim == 3 else (1,)
    if frame.strides[1:] != whole_pixels:  # rows may have any stride
        frame = np.ascontiguousarray(frame)
    pixels = np.empty((1, 1, height, width), dtype=np.uint8)
    sizes = (*frame.shape[:2], *(frame.shape[2:] or (1,)), height, width)
    compiled.module.preprocess(sizes, frame.ctypes.data, frame.strides[0], pixels.ctypes.data, used)
    return pixels


def by_pillow(frame: Frame, size: tuple[int, int]) -> NDArray[np.uint8]:
    """What :func:`preprocess` gives, computed by Pillow.

    It is resized across first and then down, as Pillow before 13 always did. From 13 on Pillow goes down first where it
    thinks that faster, and as there are bytes between the two passes, the result is another one.
    """
    height, width = size
    gray = Image.fromarray(frame).convert("L")
    for step in ((width, gray.height), (width, height)):
        gray = gray.resize(step, Image.Resampling.BICUBIC)
    return np.array(gray)[None, None]


def sample_frames(source: Source, size: tuple[int, int], count: int) -> NDArray[np.uint8]:
    """Up to ``count`` frames, spread evenly over a clip, preprocessed: uint8 (B, 1, *size)."""
    step = max(1, (source.frame_count or 1) // count)
    chosen = itertools.islice(source, 0, count * step, step)
    return np.concatenate([preprocess(frame, size) for frame in chosen])


def _check(frame: Frame, size: tuple[int, int]) -> tuple[int, int]:
    """Check what the core trusts; returns the size as two ints of Python."""
    if not isinstance(frame, np.ndarray) or frame.ndim not in (2, 3) or frame.shape[2:] not in ((), (3,)):
        what = f"shape {np.shape(frame)}" if isinstance(frame, np.ndarray) else f"the type {type(frame).__name__}"
        raise InputError(f"a frame has {what}, expected an array (H, W) or (H, W, 3)")
    if frame.dtype != np.uint8:
        raise InputError(f"a frame has dtype {frame.dtype}, expected uint8 with values 0 to 255")
    if not all(1 <= side <= _LARGEST_SIDE for side in frame.shape[:2]):
        raise InputError(f"a frame has shape {frame.shape}, expected sides of 1 to {_LARGEST_SIDE} pixels")
    sides = pair(size)
    if sides is None or not all(1 <= side <= _LARGEST_SIDE for side in sides):
        raise InputError(f"size must be (height, width), two whole numbers from 1 to {_LARGEST_SIDE}, got {size!r}")
    if max(frame.shape[0], sides[0]) * sides[1] > _MOST_PIXELS:
        raise InputError(
            f"a frame of {frame.shape[1]}x{frame.shape[0]} pixels was to be resized to {sides[1]}x{sides[0]}, which "
            f"takes more than {_MOST_PIXELS} pixels: take a smaller size"
        )
    return sides
