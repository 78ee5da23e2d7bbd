"""When the frames of a DICOM clip are shown."""

from __future__ import annotations

import itertools
import math
from typing import Any

from .frames import plausible_rate


def numbers(dataset: Any, name: str) -> list[float]:
    """The values of a numeric attribute; none where it is missing, empty, or has a value that is no finite number."""
    try:
        value = dataset.get(name)
        several = hasattr(value, "__len__") and not isinstance(value, (str, bytes))
        values = [float(v) for v in (value if several else [value])]
    except (ValueError, TypeError, OverflowError):
        return []
    return values if all(map(math.isfinite, values)) else []


def frame_times(dataset: Any, count: int) -> tuple[float | None, list[float] | None]:
    """Frames per second, and the seconds from the first frame at which each is shown; None where the file does not say.

    What FrameIncrementPointer names decides (PS3.3 C.7.6.6): FrameTime or FrameTimeVector (C.7.6.5). Then follow
    FrameTimeVector, FrameTime, CineRate and RecommendedDisplayFrameRate. A rate that no scanner has is passed over, and
    so is FrameDelay, which only moves the start.
    """
    ways = {"FrameTime": _by_time, "FrameTimeVector": _by_vector}
    names = ["FrameTimeVector", "FrameTime"]
    if dataset.get("FrameIncrementPointer") == 0x00181063:
        names.reverse()
    for name in names:
        rate, times = ways[name](numbers(dataset, name), count)
        if rate is not None:
            return rate, times
    for name in ("CineRate", "RecommendedDisplayFrameRate"):
        for value in numbers(dataset, name)[:1]:
            if (rate := plausible_rate(value)) is not None:
                return rate, None
    return None, None


def _by_time(values: list[float], count: int) -> tuple[float | None, None]:
    return (plausible_rate(1000 / values[0]) if values and values[0] > 0 else None), None


def _by_vector(values: list[float], count: int) -> tuple[float | None, list[float] | None]:
    """The first value is that of the first frame, 0 as a rule; each other is the time since the frame before.

    Some files leave out the first.
    """
    steps = [value for value in values if value > 0]
    if not steps or min(values) < 0 or not math.isfinite(sum(steps)):
        return None, None
    rate = plausible_rate(1000 * len(steps) / sum(steps))
    if rate is None or count < 2 or len(values) not in (count, count - 1):
        return rate, None
    return rate, [0.0, *(t / 1000 for t in itertools.accumulate(values[len(values) - count + 1 :]))]
