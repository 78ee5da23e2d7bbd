"""The rows of Wa = down_weight * norm_gain and Wb = down_weight * skip_gain in turn, and row sums of the rounded Wa.

The kernel reads down_weight and the gains, and writes ``stacked``, 4 CD bytes, and ``row_sums``, C float32 numbers. A
CUDA graph that was captured prepares the weights in each replay, so this is one launch.

One program handles one row of down_weight, in steps of DEPTH columns.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .numbers import narrow


@triton.jit
def stack_down_weight(
    down_weight, norm_gain, skip_gain, stacked, row_sums, DIM: tl.constexpr, DEPTH: tl.constexpr = 1024
):
    channel = tl.program_id(0)
    total = tl.zeros((DEPTH,), tl.float32)
    for first in range(0, DIM, DEPTH):
        column = first + tl.arange(0, DEPTH)
        exists = column < DIM
        weight = tl.load(down_weight + channel * DIM + column, exists, other=0).to(tl.float32)
        normed = narrow(weight * tl.load(norm_gain + column, exists, other=0), stacked.dtype.element_ty)
        skipped = narrow(weight * tl.load(skip_gain + column, exists, other=0), stacked.dtype.element_ty)
        tl.store(stacked + 2 * channel * DIM + column, normed, exists)
        tl.store(stacked + (2 * channel + 1) * DIM + column, skipped, exists)
        total += normed.to(tl.float32)
    tl.store(row_sums + channel, tl.sum(total, 0))
