"""The batch sizes that a deployed model accepts."""

from __future__ import annotations

from typing import Any

from ht_kernels.arguments import whole
from ht_kernels.errors import InputError

LARGEST_BATCH = 4096
"""The largest batch size that a manifest may state: buffers are allocated by it."""


def batch_range(batch: Any) -> tuple[int, int, int]:
    """Return the (smallest, usual, largest) batch size; ``batch`` is such a tuple, or one number for all three.

    Raises:
        InputError: ``batch`` is neither, or above :data:`LARGEST_BATCH`.
    """
    found = [whole(b) for b in (batch if isinstance(batch, (tuple, list)) else (batch,) * 3)]
    batches = [b for b in found if b is not None]
    if len(found) != 3 or len(batches) != 3 or not 1 <= batches[0] <= batches[1] <= batches[2]:
        raise InputError(
            f"batch must be a number from 1 on, or three in ascending order (min, opt, max), got {batch!r}"
        )
    if batches[2] > LARGEST_BATCH:
        raise InputError(f"batch must be at most {LARGEST_BATCH} frames, got {batches[2]}")
    return batches[0], batches[1], batches[2]
