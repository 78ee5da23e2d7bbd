"""The ranges of a stream's numbers, checked without torch."""

from __future__ import annotations

from ht_kernels.arguments import is_real
from ht_kernels.errors import InputError


def check_stale(seconds: float) -> None:
    """Raise InputError unless masks may be that old."""
    if not (is_real(seconds) and seconds > 0):
        raise InputError(f"the age from which a mask is stale must be above 0 seconds, got {seconds!r}")


def check_weight(weight: float) -> None:
    """Raise InputError unless a new frame may have that share in an average over time."""
    if not (is_real(weight) and 0 < weight <= 1):
        raise InputError(f"the smoothing weight must be above 0 and at most 1, got {weight!r}")
