"""From grad_y to grad_x: backwards through the depthwise convolution, down_weight, both gains and the LayerNorm.

With a spectral filter, ``through`` holds grad_y taken backwards through the convolution and the filter, so this kernel
does not do that.

The kernel reads grad_y and ``through``, 2 BNC bytes each in 16-bit types, and x and grad_out, 4 BND bytes. The row sums
of the LayerNorm need a first pass over x; the second pass finds the tile in the L1 or L2 cache. The kernel writes
grad_x, 2 BND bytes, and, for the matrix products that follow, ``grad_h``: rows of 2 C numbers with grad_h and
rstd * grad_h. Without NEEDS_X it reads and writes nothing of width D.

With du = grad_h down_weight, n = du norm_gain and xhat = (x - mean) rstd:
grad_x = grad_out + du skip_gain + rstd (n - mean(n) - xhat mean(n xhat)).

One program handles ROWS tokens of one image and all channels, and loops over D in steps of DEPTH.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..tuning import tuned
from .mix_and_up_project import correlate
from .numbers import multiply, narrow


@tuned(
    {"ROWS": 16, "DEPTH": 32, "num_warps": 8},
    {"ROWS": 16, "DEPTH": 64, "num_warps": 4},
    {"ROWS": 16, "DEPTH": 128, "num_warps": 4},
    {"ROWS": 32, "DEPTH": 64, "num_warps": 4},
    {"ROWS": 32, "DEPTH": 64, "num_warps": 8},
    {"ROWS": 64, "DEPTH": 64, "num_warps": 8},
    key=["work", "DIM", "CHANNELS", "POOL", "SPECTRAL", "NEEDS_X", "PRECISION"],
)
@triton.jit(do_not_specialize=["work"])
def down_project_backward(
    x,
    grad_out,
    grad_x,
    stats,
    grad_y,
    through,
    grad_patch,
    kernels,
    down_weight,
    norm_gain,
    skip_gain,
    grad_h,
    tokens,
    prefix,
    height,
    width,
    kernel_stride,
    x_batch_stride,
    x_token_stride,
    grad_out_batch_stride,
    grad_out_token_stride,
    grad_x_batch_stride,
    grad_x_token_stride,
    work,
    DIM: tl.constexpr,
    CHANNELS: tl.constexpr,
    POOL: tl.constexpr,
    SPECTRAL: tl.constexpr,
    NEEDS_X: tl.constexpr,
    ALL_CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    tiles = tl.cdiv(tokens, ROWS)
    image = tl.program_id(0) // tiles
    row = tl.program_id(0) % tiles * ROWS + tl.arange(0, ROWS)
    channel, depth = tl.arange(0, ALL_CHANNELS), tl.arange(0, DEPTH)
    row_exists, channel_exists = row < tokens, channel < CHANNELS
    both = row_exists[:, None] & channel_exists[None, :]
    token = image.to(tl.int64) * tokens + row

    grad_y += image.to(tl.int64) * tokens * CHANNELS
    at = row[:, None] * CHANNELS + channel[None, :]
    if SPECTRAL:
        patch = both & (row >= prefix)[:, None]
        through += image.to(tl.int64) * tokens * CHANNELS
        grad = tl.load(grad_y + at, patch, other=0).to(tl.float32)
        grad += tl.load(through + at, patch, other=0).to(tl.float32)
    else:
        grad = correlate(
            grad_y,
            kernels + image.to(tl.int64) * kernel_stride,
            row,
            tokens,
            prefix,
            height,
            width,
            CHANNELS,
            True,
            ROWS,
            ALL_CHANNELS,
        )
    if POOL:
        grad += tl.load(grad_patch + image * CHANNELS + channel, channel_exists, other=0)[None, :]
    passed = tl.load(grad_y + at, (row < prefix)[:, None] & channel_exists[None, :], other=0).to(tl.float32)
    grad = tl.where((row < prefix)[:, None], passed, grad)
    rstd = tl.load(stats + 2 * token + 1, row_exists, other=0)
    narrowed = narrow(grad, grad_h.dtype.element_ty)
    at = token[:, None] * (2 * CHANNELS) + channel[None, :]
    tl.store(grad_h + at, narrowed, both)
    tl.store(grad_h + at + CHANNELS, narrow(grad * rstd[:, None], grad_h.dtype.element_ty), both)

    if NEEDS_X:
        mean = tl.load(stats + 2 * token, row_exists, other=0)
        x += image.to(tl.int64) * x_batch_stride + row[:, None].to(tl.int64) * x_token_stride
        grad_out += image.to(tl.int64) * grad_out_batch_stride + row[:, None].to(tl.int64) * grad_out_token_stride
        grad_x += image.to(tl.int64) * grad_x_batch_stride + row[:, None].to(tl.int64) * grad_x_token_stride
        total = tl.zeros((ROWS,), tl.float32)
        slope = tl.zeros((ROWS,), tl.float32)
        for first in range(0, DIM, DEPTH):
            column = first + depth
            exists = column < DIM
            du = tl.zeros((ROWS, DEPTH), tl.float32)
            du = multiply(narrowed, down_weight, 0, CHANNELS, column, DIM, DIM, 1, du, PRECISION)
            normed = du * tl.load(norm_gain + column, exists, other=0)[None, :]
            value = tl.load(x + column[None, :], row_exists[:, None] & exists[None, :], other=0).to(tl.float32)
            total += tl.sum(normed, 1)
            slope += tl.sum(normed * (value - mean[:, None]) * rstd[:, None], 1)
        total /= DIM
        slope /= DIM
        for first in range(0, DIM, DEPTH):
            column = first + depth
            exists = column < DIM
            du = tl.zeros((ROWS, DEPTH), tl.float32)
            du = multiply(narrowed, down_weight, 0, CHANNELS, column, DIM, DIM, 1, du, PRECISION)
            norm = tl.load(norm_gain + column, exists, other=0)[None, :]
            skip = tl.load(skip_gain + column, exists, other=0)[None, :]
            inside = row_exists[:, None] & exists[None, :]
            value = tl.load(x + column[None, :], inside, other=0).to(tl.float32)
            hat = (value - mean[:, None]) * rstd[:, None]
            result = tl.load(grad_out + column[None, :], inside, other=0).to(tl.float32) + du * skip
            result += rstd[:, None] * (du * norm - total[:, None] - hat * slope[:, None])
            tl.store(grad_x + column[None, :], narrow(result, grad_x.dtype.element_ty), inside)
