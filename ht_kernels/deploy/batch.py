"""How many frames a deployed model takes at once."""

from __future__ import annotations

from typing import Any

from ht_kernels.errors import InputError


def batch_range(batch: Any) -> tuple[int, int, int]:
    """Smallest, usual and largest number of frames, from these three or from one number that stands for all.

    Raises:
        InputError: it is neither.
    """
    batches = batch if isinstance(batch, tuple) else (batch,) * 3
    if len(batches) != 3 or any(type(b) is not int for b in batches) or not 1 <= batches[0] <= batches[1] <= batches[2]:
        raise InputError(f"batch must be a number from 1 on, or three that do not fall (min, opt, max), got {batch}")
    return batches
