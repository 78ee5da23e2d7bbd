"""From grad_out to the gradient of Y: backwards through up_weight, dropout, GELU and mix_weight.

The kernel reads grad_out once, 2 BND bytes in 16-bit types, and h, ``filtered`` and the weights. It recomputes Y and m
as the forward did. For the matrix products that follow, it writes ``activation`` = gelu(m) * keep, Y, grad_m and
grad_y, 2 BNC bytes each, and one float32 sum of grad_out per 16 tokens and column. Prefix tokens in grad_y hold the
gradient of h.

One program handles ROWS tokens of one image and all channels, and loops over D in steps of DEPTH.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..state import SUM_ROWS
from ..tuning import tuned
from .dropout import keep_factors
from .mix_and_up_project import mix
from .numbers import multiply, narrow

PART = tl.constexpr(SUM_ROWS)


@tuned(
    {"ROWS": 16, "DEPTH": 32, "num_warps": 8},
    {"ROWS": 16, "DEPTH": 64, "num_warps": 4},
    {"ROWS": 16, "DEPTH": 64, "num_warps": 8},
    {"ROWS": 16, "DEPTH": 128, "num_warps": 4},
    {"ROWS": 32, "DEPTH": 64, "num_warps": 4, "maxnreg": 255},
    key=["work", "DIM", "CHANNELS", "SPECTRAL", "DROPOUT", "PRECISION"],
)
@triton.jit(do_not_specialize=["work"])
def mix_and_up_project_backward(
    grad_out,
    h,
    filtered,
    kernels,
    mix_weight,
    mix_bias,
    up_weight,
    seed,
    activation,
    convolved,
    grad_m,
    grad_y,
    grad_sums,
    dropout,
    tokens,
    prefix,
    height,
    width,
    parts,
    kernel_stride,
    batch_stride,
    token_stride,
    work,
    DIM: tl.constexpr,
    CHANNELS: tl.constexpr,
    SPECTRAL: tl.constexpr,
    DROPOUT: tl.constexpr,
    ALL_CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    tiles = tl.cdiv(tokens, ROWS)
    image, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    row = tile * ROWS + tl.arange(0, ROWS)
    part = tile * (ROWS // PART) + tl.arange(0, ROWS // PART)
    channel, depth = tl.arange(0, ALL_CHANNELS), tl.arange(0, DEPTH)
    row_exists, channel_exists = row < tokens, channel < CHANNELS
    both = row_exists[:, None] & channel_exists[None, :]

    grad_out += image.to(tl.int64) * batch_stride
    grad_g = tl.zeros((ROWS, ALL_CHANNELS), tl.float32)
    for first in range(0, DIM, DEPTH):
        column = first + depth
        exists = column < DIM
        value = tl.load(
            grad_out + row[:, None].to(tl.int64) * token_stride + column[None, :],
            row_exists[:, None] & exists[None, :],
            other=0,
        ).to(tl.float32)
        rounded = narrow(value, up_weight.dtype.element_ty)
        grad_g = multiply(rounded, up_weight, first, DIM, channel, CHANNELS, CHANNELS, 1, grad_g, PRECISION)
        tl.store(
            grad_sums + (image * parts + part)[:, None].to(tl.int64) * DIM + column[None, :],
            tl.sum(tl.reshape(value, (ROWS // PART, PART, DEPTH)), 1),
            (part < parts)[:, None] & exists[None, :],
        )

    y, m = mix(
        h + image.to(tl.int64) * tokens * CHANNELS,
        filtered + image.to(tl.int64) * tokens * CHANNELS,
        kernels + image.to(tl.int64) * kernel_stride,
        mix_weight,
        mix_bias,
        row,
        tokens,
        prefix,
        height,
        width,
        CHANNELS,
        SPECTRAL,
        PRECISION,
        ROWS,
        ALL_CHANNELS,
    )
    density = 0.5 * (1 + tl.erf(m * 0.7071067811865476))
    slope = density + m * tl.exp(-0.5 * m * m) * 0.3989422804014327
    g = m * density
    if DROPOUT:
        keep = keep_factors(seed, image, row, channel, dropout, CHANNELS)
        g *= keep
        slope *= keep
    dtype = h.dtype.element_ty
    grad = narrow(grad_g * slope, dtype)
    through = tl.zeros((ROWS, ALL_CHANNELS), tl.float32)
    through = multiply(grad, mix_weight, 0, CHANNELS, channel, CHANNELS, CHANNELS, 1, through, PRECISION)
    through = narrow(through, dtype)
    patch = (row >= prefix)[:, None]
    at = (image.to(tl.int64) * tokens + row)[:, None] * CHANNELS + channel[None, :]
    tl.store(activation + at, narrow(g, dtype), both)
    tl.store(convolved + at, tl.where(patch, y, tl.zeros_like(y)), both)
    tl.store(grad_m + at, grad, both)
    tl.store(grad_y + at, tl.where(patch, through, grad), both)
