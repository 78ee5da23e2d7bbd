"""What a frame is, and what a frame and a frame rate must be like."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ht_kernels.errors import InputError

Frame = NDArray[np.uint8]
"""(H, W) gray or (H, W, 3) RGB."""

_RATES = 0.01, 20_000


def check_frame(frame: Frame, index: int) -> None:
    """Raise InputError unless a frame is (H, W) or (H, W, 3) uint8."""
    shape = np.shape(frame)
    if not isinstance(frame, np.ndarray) or len(shape) not in (2, 3) or shape[2:] not in ((), (3,)):
        raise InputError(f"frame {index} has shape {shape}, expected an array (H, W) or (H, W, 3)")
    if frame.size == 0:
        raise InputError(f"frame {index} is empty: its shape is {shape}")
    if np.issubdtype(frame.dtype, np.floating) and not np.isfinite(frame).all():
        raise InputError(f"frame {index} has values that are not finite (NaN or infinity)")
    if frame.dtype != np.uint8:
        raise InputError(f"frame {index} has dtype {frame.dtype}, expected uint8 with values 0 to 255")


def video_rate(stream: Any) -> float | None:
    """The plausible frame rate of PyAV's video stream, or None."""
    rate = stream.average_rate or stream.guessed_rate
    return plausible_rate(float(rate) if rate else None)


def plausible_rate(fps: float | None) -> float | None:
    """The frame rate that a file states, or None where no scanner has such a rate: damaged files state anything."""
    return fps if fps is not None and _RATES[0] <= fps <= _RATES[1] else None
