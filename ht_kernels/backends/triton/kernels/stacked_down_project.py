"""h = rstd (Wa x - mean rowsum(Wa)) + Wb x + down_bias, and sums of h over patches, for 16-bit tokens.

``stacked`` has the rows of Wa and Wb in turn, so one product of tensor cores gives ``Wa x`` and ``Wb x``, and both lie
in the registers of the same thread. The statistics of a token come from the same pass over x: sums of d and of d * d
with d = x - shift in float32. ``shift`` is the mean of the token's first DEPTH numbers, so a mean that is much larger
than the deviation costs the variance no digits. The row sums are of the rounded Wa, so the mean cancels.

The kernel reads x once, 2 BND bytes, and the stacked matrix, 4 CD bytes, once per tile from L2. It writes what
down_project writes for inference.

One program handles ROWS tokens of one image and COLUMNS rows of ``stacked``, two a channel, and loops over D in steps
of DEPTH. Rows beyond the last are copies of it, of x and of ``stacked`` alike; nothing of them is stored.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..tuning import tuned
from .numbers import narrow, product


@triton.jit
def columns_of(rows, first, DIM: tl.constexpr, DEPTH: tl.constexpr):
    """The columns ``first`` to ``first + DEPTH`` of rows of DIM numbers; zeros beyond the last."""
    column = (first + tl.arange(0, DEPTH))[None, :]
    return tl.load(rows + column, column < DIM, other=0)


@tuned(
    {"ROWS": 16, "COLUMNS": 32, "DEPTH": 64, "num_warps": 2},
    {"ROWS": 16, "COLUMNS": 64, "DEPTH": 64, "num_warps": 4},
    {"ROWS": 16, "COLUMNS": 128, "DEPTH": 64, "num_warps": 4},
    {"ROWS": 32, "COLUMNS": 128, "DEPTH": 64, "num_warps": 4},
    {"ROWS": 128, "COLUMNS": 128, "DEPTH": 64, "num_warps": 8},
    {"ROWS": 64, "COLUMNS": 128, "DEPTH": 64, "num_warps": 4},
    key=["work", "DIM", "CHANNELS", "POOL"],
    numbers=64,
)
@triton.jit(do_not_specialize=["work"])
def stacked_down_project(
    x,
    stacked,
    row_sums,
    bias,
    h,
    sums,
    tokens,
    prefix,
    batch_stride,
    token_stride,
    eps,
    work,
    DIM: tl.constexpr,
    CHANNELS: tl.constexpr,
    POOL: tl.constexpr,
    SUM_ROWS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    tiles = tl.cdiv(tokens, ROWS)
    image = tl.program_id(0) // tiles
    row = tl.program_id(0) % tiles * ROWS + tl.arange(0, ROWS)
    HALF: tl.constexpr = COLUMNS // 2
    channel = tl.program_id(1) * HALF + tl.arange(0, HALF)
    either = tl.minimum(tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS), 2 * CHANNELS - 1)
    row_exists, channel_exists = row < tokens, channel < CHANNELS
    from_row = tl.minimum(row, tokens - 1).to(tl.int64)
    values = x + image.to(tl.int64) * batch_stride + from_row[:, None] * token_stride
    weights = stacked + either[:, None] * DIM

    # Numbers that one load of 16 bytes brings are in one thread: each thread sums them by itself, and threads add their
    # sums only once, behind the loop.
    GROUPS: tl.constexpr = DEPTH // 8
    SHIFTED: tl.constexpr = DEPTH if DEPTH < DIM else DIM
    shift = tl.sum(columns_of(values, 0, DIM, DEPTH).to(tl.float32), 1) / SHIFTED
    total = tl.zeros((ROWS, GROUPS), tl.float32)
    squares = tl.zeros((ROWS, GROUPS), tl.float32)
    both = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, DIM, DEPTH):
        value = columns_of(values, first, DIM, DEPTH)
        both = product(value, tl.trans(columns_of(weights, first, DIM, DEPTH)), both, "ieee")
        d = value.to(tl.float32) - shift[:, None]
        if DIM % DEPTH != 0:
            d = tl.where((first + tl.arange(0, DEPTH))[None, :] < DIM, d, 0)
        d = tl.reshape(d, (ROWS, GROUPS, 8))
        total += tl.sum(d, 2)
        squares += tl.sum(d * d, 2)
    offset = tl.sum(total, 1) / DIM
    mean = shift + offset
    rstd = tl.rsqrt(tl.maximum(tl.sum(squares, 1) / DIM - offset * offset, 0) + eps)

    normed, skipped = tl.split(tl.reshape(both, (ROWS, HALF, 2)))
    normed -= mean[:, None] * tl.load(row_sums + channel, channel_exists, other=0)[None, :]
    projected = rstd[:, None] * normed + skipped + tl.load(bias + channel, channel_exists, other=0)[None, :]

    token = image.to(tl.int64) * tokens + row
    tl.store(
        h + token[:, None] * CHANNELS + channel[None, :],
        narrow(projected, h.dtype.element_ty),
        row_exists[:, None] & channel_exists[None, :],
    )
    if POOL:
        patches = tl.where((row_exists & (row >= prefix))[:, None], projected, 0)
        partial = tl.sum(tl.reshape(patches, (ROWS // SUM_ROWS, SUM_ROWS, HALF)), 1)
        parts = tl.cdiv(tokens, SUM_ROWS)
        part = tl.program_id(0) % tiles * (ROWS // SUM_ROWS) + tl.arange(0, ROWS // SUM_ROWS)
        tl.store(
            sums + (image * parts + part)[:, None] * CHANNELS + channel[None, :],
            partial,
            (part < parts)[:, None] & channel_exists[None, :],
        )
