"""out = x + up_weight gelu(m) + up_bias, where m = mix_weight Y + mix_bias for patches, and m = h for prefix tokens.

Y is the depthwise convolution of h with the image's own kernel. With a spectral filter, Y is the convolution of
``filtered``, the filtered h, plus h. In training, dropout is applied to gelu(m).

The kernel reads h, ``filtered``, x and the weights, and writes out: 4 BND + 2 BNC bytes in 16-bit types, or
4 BND + 4 BNC bytes with a spectral filter. x comes from L2 if it is still there since down_project. For each of the 49
taps, the neighbours of a patch are read again from the L1 cache.

One program handles ROWS tokens of one image and one of SLICES slices of D, and loops over the slice in steps of DEPTH
columns. Every slice repeats the convolution of its tile. This costs work, but it makes enough programs for a GPU even
with a single image.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..tuning import tuned
from .dropout import keep_factors
from .numbers import multiply, narrow


@triton.jit
def correlate(
    h,
    kernel,
    row,
    tokens,
    prefix,
    height,
    width,
    CHANNELS: tl.constexpr,
    MIRRORED: tl.constexpr,
    ROWS: tl.constexpr,
    ALL_CHANNELS: tl.constexpr,
):
    """Depthwise correlation of the tokens ``row`` with a kernel in memory, without its bias. Prefix tokens get zeros.

    ``h`` points to the image's first token. MIRRORED mirrors the kernel, as the backward of the convolution needs it.
    """
    channel = tl.arange(0, ALL_CHANNELS)
    channel_exists = channel < CHANNELS
    patch_row, patch_column = (row - prefix) // width, (row - prefix) % width
    exists = (row >= prefix) & (row < tokens)
    at = h + row[:, None] * CHANNELS + channel[None, :]
    y = tl.zeros((ROWS, ALL_CHANNELS), tl.float32)
    reach = tl.minimum(3, height - 1)
    for down in range(-reach, reach + 1):
        in_column = exists & (patch_row + down >= 0) & (patch_row + down < height)
        for right in tl.static_range(-3, 4):
            inside = in_column & (patch_column + right >= 0) & (patch_column + right < width)
            value = tl.load(
                at + (down * width + right) * CHANNELS, inside[:, None] & channel_exists[None, :], other=0
            ).to(tl.float32)
            tap = 24 + 7 * down + right
            if MIRRORED:
                tap = 48 - tap
            y += value * tl.load(kernel + tap * CHANNELS + channel, channel_exists, other=0)[None, :]
    return y


@triton.jit
def mix(
    h,
    filtered,
    kernel,
    mix_weight,
    mix_bias,
    row,
    tokens,
    prefix,
    height,
    width,
    CHANNELS: tl.constexpr,
    SPECTRAL: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    ALL_CHANNELS: tl.constexpr,
):
    """Y, rounded to the dtype of ``h``, and m, for the tokens ``row``.

    ``h`` and ``filtered`` point to the image's first token, ``kernel`` to the image's kernel. Unless SPECTRAL, ``h``
    and ``filtered`` are the same.
    """
    channel = tl.arange(0, ALL_CHANNELS)
    channel_exists = channel < CHANNELS
    y = correlate(filtered, kernel, row, tokens, prefix, height, width, CHANNELS, False, ROWS, ALL_CHANNELS)
    at = row[:, None] * CHANNELS + channel[None, :]
    if SPECTRAL:
        patch = (row >= prefix) & (row < tokens)
        y += tl.load(h + at, patch[:, None] & channel_exists[None, :], other=0).to(tl.float32)
    y += tl.load(kernel + 49 * CHANNELS + channel, channel_exists, other=0)[None, :]
    bias = tl.load(mix_bias + channel, channel_exists, other=0)
    y = narrow(y, h.dtype.element_ty)
    mixed = tl.zeros((ROWS, ALL_CHANNELS), tl.float32)
    mixed = multiply(y, mix_weight, 0, CHANNELS, channel, CHANNELS, 1, CHANNELS, mixed, PRECISION) + bias[None, :]
    passed = tl.load(h + at, (row < prefix)[:, None] & channel_exists[None, :], other=0).to(tl.float32)
    return y, tl.where((row < prefix)[:, None], passed, mixed)


@tuned(
    {"ROWS": 16, "SLICES": 8, "DEPTH": 32, "num_warps": 8},
    {"ROWS": 32, "SLICES": 1, "DEPTH": 32, "num_warps": 8},
    {"ROWS": 16, "SLICES": 4, "DEPTH": 64, "num_warps": 4, "maxnreg": 255},
    {"ROWS": 16, "SLICES": 2, "DEPTH": 128, "num_warps": 4, "maxnreg": 255},
    {"ROWS": 16, "SLICES": 1, "DEPTH": 128, "num_warps": 4, "maxnreg": 255},
    {"ROWS": 32, "SLICES": 1, "DEPTH": 64, "num_warps": 4, "maxnreg": 255},
    {"ROWS": 32, "SLICES": 1, "DEPTH": 64, "num_warps": 8, "maxnreg": 255},
    {"ROWS": 64, "SLICES": 1, "DEPTH": 64, "num_warps": 8, "maxnreg": 255},
    key=["work", "DIM", "CHANNELS", "SPECTRAL", "DROPOUT", "PRECISION"],
)
@triton.jit(do_not_specialize=["work"])
def mix_and_up_project(
    x,
    out,
    h,
    filtered,
    kernels,
    mix_weight,
    mix_bias,
    up_weight,
    up_bias,
    seed,
    dropout,
    tokens,
    prefix,
    height,
    width,
    kernel_stride,
    x_batch_stride,
    x_token_stride,
    out_batch_stride,
    out_token_stride,
    work,
    DIM: tl.constexpr,
    CHANNELS: tl.constexpr,
    SPECTRAL: tl.constexpr,
    DROPOUT: tl.constexpr,
    ALL_CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    SLICES: tl.constexpr,
    DEPTH: tl.constexpr,
):
    tiles = tl.cdiv(tokens, ROWS)
    image = tl.program_id(0) // tiles
    row = tl.program_id(0) % tiles * ROWS + tl.arange(0, ROWS)
    channel, depth = tl.arange(0, ALL_CHANNELS), tl.arange(0, DEPTH)
    row_exists = row < tokens
    h += image.to(tl.int64) * tokens * CHANNELS
    filtered += image.to(tl.int64) * tokens * CHANNELS

    _, m = mix(
        h,
        filtered,
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
    g = 0.5 * m * (1 + tl.erf(m * 0.7071067811865476))
    if DROPOUT:
        g *= keep_factors(seed, image, row, channel, dropout, CHANNELS)
    g = narrow(g, h.dtype.element_ty)

    x += image.to(tl.int64) * x_batch_stride
    out += image.to(tl.int64) * out_batch_stride
    SLICE: tl.constexpr = (DIM + SLICES * DEPTH - 1) // (SLICES * DEPTH) * DEPTH
    for step in range(0, SLICE, DEPTH):
        column = tl.program_id(1) * SLICE + step + depth
        exists = column < DIM
        both = row_exists[:, None] & exists[None, :]
        at = row[:, None].to(tl.int64)
        value = tl.load(x + at * x_token_stride + column[None, :], both, other=0).to(tl.float32)
        value += tl.load(up_bias + column, exists, other=0)[None, :]
        value = multiply(g, up_weight, 0, CHANNELS, column, DIM, 1, CHANNELS, value, PRECISION)
        tl.store(out + at * out_token_stride + column[None, :], narrow(value, out.dtype.element_ty), both)
