"""What a frame is, a part of it, and what a frame and a frame rate must be like."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ht_kernels.errors import InputError

Frame = NDArray[np.uint8]
"""(H, W) gray or (H, W, 3) RGB."""

_RATES = 0.01, 20_000


class Box(NamedTuple):
    """A part of a frame, in pixels."""

    x: int
    y: int
    width: int
    height: int

    def of(self, frame: Frame) -> Frame:
        """This part of a frame, as a view of it.

        Raises:
            InputError: the box is not inside the frame.
        """
        height, width = frame.shape[:2]
        if min(self.x, self.y) < 0 or min(self.width, self.height) < 1:
            raise InputError(f"the crop {','.join(map(str, self))} must be X,Y,W,H from 0,0 on and not empty")
        if self.x + self.width > width or self.y + self.height > height:
            raise InputError(f"the crop {','.join(map(str, self))} is not inside a frame of {width}x{height} pixels")
        return frame[self.y : self.y + self.height, self.x : self.x + self.width]


def check_frame(frame: Frame, index: int) -> None:
    """Raise InputError unless a frame is (H, W) or (H, W, 3) uint8."""
    shape = np.shape(frame)
    if not isinstance(frame, np.ndarray):
        raise InputError(f"frame {index} is a {type(frame).__name__}, expected an array of NumPy, (H, W) or (H, W, 3)")
    if len(shape) not in (2, 3) or shape[2:] not in ((), (3,)):
        raise InputError(f"frame {index} has shape {shape}, expected an array (H, W) or (H, W, 3)")
    if frame.size == 0:
        raise InputError(f"frame {index} is empty: its shape is {shape}")
    if np.issubdtype(frame.dtype, np.floating) and not np.isfinite(frame).all():
        raise InputError(f"frame {index} has values that are not finite (NaN or infinity)")
    if frame.dtype != np.uint8:
        raise InputError(f"frame {index} has dtype {frame.dtype}, expected uint8 with values 0 to 255")


def plausible_rate(fps: float | None) -> float | None:
    """The frame rate that a file states, or None where no scanner has such a rate: damaged files state anything."""
    return fps if fps is not None and _RATES[0] <= fps <= _RATES[1] else None
