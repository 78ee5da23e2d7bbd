"""h = down_weight u + down_bias, with u = (x - mean) rstd norm_gain + x skip_gain, and sums of h over patches.

The kernel reads x from memory once, 2 BND bytes in 16-bit types. The statistics of a tile need a first pass over x; the
second pass finds the tile in the L1 or L2 cache. Each tile reads down_weight once, from L2. The kernel writes h, 2 BNC
bytes, and for the noise estimator one float32 sum per 16 tokens and channel. The next stage adds these sums in a fixed
order, so with the same tile the same input gives the same bits. For training, the kernel also writes mean and rstd of
each token in float32.

One program handles ROWS tokens of one image and COLUMNS channels, and loops over D in steps of DEPTH.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..tuning import tuned
from .numbers import multiply, narrow


@tuned(
    {"ROWS": 16, "COLUMNS": 16, "DEPTH": 128, "num_warps": 2},
    {"ROWS": 16, "COLUMNS": 16, "DEPTH": 256, "num_warps": 4},
    {"ROWS": 16, "COLUMNS": 32, "DEPTH": 128, "num_warps": 4},
    {"ROWS": 16, "COLUMNS": 64, "DEPTH": 128, "num_warps": 4},
    {"ROWS": 32, "COLUMNS": 64, "DEPTH": 64, "num_warps": 4},
    {"ROWS": 32, "COLUMNS": 64, "DEPTH": 128, "num_warps": 8},
    {"ROWS": 64, "COLUMNS": 64, "DEPTH": 32, "num_warps": 8},
    key=["work", "DIM", "CHANNELS", "POOL", "STATS", "PRECISION"],
)
@triton.jit(do_not_specialize=["work"])
def down_project(
    x,
    weight,
    norm_gain,
    skip_gain,
    bias,
    h,
    sums,
    stats,
    tokens,
    prefix,
    batch_stride,
    token_stride,
    eps,
    work,
    DIM: tl.constexpr,
    CHANNELS: tl.constexpr,
    POOL: tl.constexpr,
    STATS: tl.constexpr,
    PRECISION: tl.constexpr,
    SUM_ROWS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    tiles = tl.cdiv(tokens, ROWS)
    image = tl.program_id(0) // tiles
    row = tl.program_id(0) % tiles * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)
    rows = x + image.to(tl.int64) * batch_stride + row[:, None].to(tl.int64) * token_stride
    row_exists, channel_exists = row < tokens, channel < CHANNELS

    # The mean of the columns so far, and the sum of squared differences from it. Those of each further chunk of columns
    # are combined with them by an exact formula (Chan et al., 1983).
    mean = tl.zeros((ROWS,), tl.float32)
    squares = tl.zeros((ROWS,), tl.float32)
    for first in range(0, DIM, DEPTH):
        exists = (first + depth)[None, :] < DIM
        value = tl.load(rows + (first + depth)[None, :], row_exists[:, None] & exists, other=0).to(tl.float32)
        count = tl.minimum(DEPTH, DIM - first).to(tl.float32)
        chunk_mean = tl.sum(value, 1) / count
        centered = tl.where(exists, value - chunk_mean[:, None], 0)
        delta = chunk_mean - mean
        share = count / (first + count)
        mean += delta * share
        squares += tl.sum(centered * centered, 1) + delta * delta * first * share
    rstd = tl.rsqrt(squares / DIM + eps)

    projected = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, DIM, DEPTH):
        column = first + depth
        exists = column < DIM
        value = tl.load(rows + column[None, :], row_exists[:, None] & exists[None, :], other=0).to(tl.float32)
        norm = tl.load(norm_gain + column, exists, other=0)
        skip = tl.load(skip_gain + column, exists, other=0)
        u = (value - mean[:, None]) * rstd[:, None] * norm[None, :] + value * skip[None, :]
        u = narrow(u, weight.dtype.element_ty)
        projected = multiply(u, weight, first, DIM, channel, CHANNELS, 1, DIM, projected, PRECISION)
    projected += tl.load(bias + channel, channel_exists, other=0)[None, :]

    token = image.to(tl.int64) * tokens + row
    tl.store(
        h + token[:, None] * CHANNELS + channel[None, :],
        narrow(projected, h.dtype.element_ty),
        row_exists[:, None] & channel_exists[None, :],
    )
    if STATS:
        tl.store(stats + 2 * token, mean, row_exists)
        tl.store(stats + 2 * token + 1, rstd, row_exists)
    if POOL:
        patches = tl.where((row_exists & (row >= prefix))[:, None], projected, 0)
        partial = tl.sum(tl.reshape(patches, (ROWS // SUM_ROWS, SUM_ROWS, COLUMNS)), 1)
        parts = tl.cdiv(tokens, SUM_ROWS)
        part = tl.program_id(0) % tiles * (ROWS // SUM_ROWS) + tl.arange(0, ROWS // SUM_ROWS)
        tl.store(
            sums + (image * parts + part)[:, None] * CHANNELS + channel[None, :],
            partial,
            (part < parts)[:, None] & channel_exists[None, :],
        )
