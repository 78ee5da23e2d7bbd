"""Arrays and images in memory, as the frames of 8 bits that models take."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from ht_kernels.errors import InputError
from ht_kernels.media.frames import Frame
from ht_kernels.media.image import show


def to_frame(image: Any) -> Frame:
    """An image as a frame, (H, W) gray or (H, W, 3) RGB, uint8.

    Args:
        image: a NumPy array (H, W) or (H, W, 3), uint8, or floating point from 0 to 1; or an image of Pillow in any
            mode, which is shown as a file of it would be.

    Raises:
        InputError: the array has another shape or dtype, is empty, or has values that are not finite or beyond 0 to 1.
        TypeError: it is neither an array nor an image of Pillow.
    """
    if isinstance(image, Image.Image):
        return show(image)
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f"an input must be a path, a NumPy array or an image of Pillow, or a list of these, got "
            f"{type(image).__name__}"
        )
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
        raise InputError(
            f"an array has shape {image.shape}, expected gray (H, W) or RGB (H, W, 3): pass several images as a list, "
            "and channels last"
        )
    if image.size == 0:
        raise InputError(f"an array is empty: its shape is {image.shape}")
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise InputError(
            f"an array has dtype {image.dtype}, of which nothing says what is white: expected uint8 from 0 to 255, or "
            "floating point from 0 to 1"
        )
    low, high = float(image.min()), float(image.max())
    if not 0 <= low <= high <= 1:  # false for NaN, too
        raise InputError(
            f"an array of {image.dtype} has values from {low:g} to {high:g}, expected 0 to 1: divide pixel values by "
            "their white"
        )
    frame: Frame = np.rint(image * 255).astype(np.uint8)
    return frame
