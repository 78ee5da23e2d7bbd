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
def scale_weights(
    image,
    sums,
    parts,
    patches,
    hidden_weight,
    hidden_bias,
    score_weight,
    score_bias,
    CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    ALL_CHANNELS: tl.constexpr,
    ALL_HIDDEN: tl.constexpr,
):
    """The noise estimator for one image.

    Returns the mean bottleneck over the patches, the hidden units before ReLU, and the weights (4,) of the three
    scales, of which the fourth is zero.
    """
    channel, unit, scale = tl.arange(0, ALL_CHANNELS), tl.arange(0, ALL_HIDDEN), tl.arange(0, 4)
    total = tl.zeros((ALL_CHANNELS,), tl.float32)
    for part in range(parts):
        total += tl.load(sums + (image * parts + part) * CHANNELS + channel, channel < CHANNELS, other=0)
    mean = total / patches
    weight = tl.load(
        hidden_weight + unit[:, None] * CHANNELS + channel[None, :],
        (unit < HIDDEN)[:, None] & (channel < CHANNELS)[None, :],
        other=0,
    )
    hidden = tl.sum(weight * mean[None, :], 1) + tl.load(hidden_bias + unit, unit < HIDDEN, other=0)
    weight = tl.load(
        score_weight + scale[:, None] * HIDDEN + unit[None, :],
        (scale < 3)[:, None] & (unit < HIDDEN)[None, :],
        other=0,
    )
    score = tl.sum(weight * tl.maximum(hidden, 0)[None, :], 1)
    score += tl.load(score_bias + scale, scale < 3, other=0)
    score = tl.where(scale < 3, score, float("-inf"))
    score = tl.exp(score - tl.max(score, 0))
    return mean, hidden, score / tl.sum(score, 0)


@triton.jit
def image_weights(
    image,
    sums,
    parts,
    patches,
    hidden_weight,
    hidden_bias,
    score_weight,
    score_bias,
    CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    SCALES: tl.constexpr,
    ALL_CHANNELS: tl.constexpr,
    ALL_HIDDEN: tl.constexpr,
):
    """The weights (4,) of the scales of one image; weights beyond the last scale are zero."""
    if SCALES == 3:
        _, _, weights = scale_weights(
            image,
            sums,
            parts,
            patches,
            hidden_weight,
            hidden_bias,
            score_weight,
            score_bias,
            CHANNELS,
            HIDDEN,
            ALL_CHANNELS,
            ALL_HIDDEN,
        )
    else:
        weights = tl.where(tl.arange(0, 4) == 0, 1.0, 0.0)
    return weights


@triton.jit
def correlate(
    h,
    weights,
    scale_kernels,
    row,
    tokens,
    prefix,
    height,
    width,
    CHANNELS: tl.constexpr,
    SCALES: tl.constexpr,
    MIRRORED: tl.constexpr,
    ROWS: tl.constexpr,
    ALL_CHANNELS: tl.constexpr,
):
    """Depthwise correlation of the tokens ``row`` with the image's own kernel. Prefix tokens get zeros.

    ``h`` points to the image's first token. MIRRORED mirrors the kernel, as the backward of the convolution needs it.
    """
    channel, scale = tl.arange(0, ALL_CHANNELS), tl.arange(0, 4)
    channel_exists = channel < CHANNELS
    patch_row, patch_column = (row - prefix) // width, (row - prefix) % width
    y = tl.zeros((ROWS, ALL_CHANNELS), tl.float32)
    for tap in range(49):
        at_row, at_column = patch_row + tap // 7 - 3, patch_column + tap % 7 - 3
        inside = (row >= prefix) & (row < tokens)
        inside &= (at_row >= 0) & (at_row < height) & (at_column >= 0) & (at_column < width)
        neighbour = prefix + at_row * width + at_column
        value = tl.load(
            h + neighbour[:, None] * CHANNELS + channel[None, :],
            inside[:, None] & channel_exists[None, :],
            other=0,
        ).to(tl.float32)
        kernel = tl.zeros((ALL_CHANNELS,), tl.float32)
        at = 48 - tap if MIRRORED else tap
        for s in tl.static_range(SCALES):
            share = tl.sum(tl.where(scale == s, weights, 0), 0)
            kernel += share * tl.load(scale_kernels + (s * CHANNELS + channel) * 49 + at, channel_exists, other=0)
        y += value * kernel[None, :]
    return y


@triton.jit
def mix(
    h,
    filtered,
    weights,
    scale_kernels,
    scale_bias,
    mix_weight,
    mix_bias,
    row,
    tokens,
    prefix,
    height,
    width,
    CHANNELS: tl.constexpr,
    SCALES: tl.constexpr,
    SPECTRAL: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    ALL_CHANNELS: tl.constexpr,
):
    """Y, rounded to the dtype of ``h``, and m, for the tokens ``row``.

    ``h`` and ``filtered`` point to the image's first token. Unless SPECTRAL, both are the same.
    """
    channel, scale = tl.arange(0, ALL_CHANNELS), tl.arange(0, 4)
    channel_exists = channel < CHANNELS
    y = correlate(
        filtered,
        weights,
        scale_kernels,
        row,
        tokens,
        prefix,
        height,
        width,
        CHANNELS,
        SCALES,
        False,
        ROWS,
        ALL_CHANNELS,
    )
    at = row[:, None] * CHANNELS + channel[None, :]
    if SPECTRAL:
        patch = (row >= prefix) & (row < tokens)
        y += tl.load(h + at, patch[:, None] & channel_exists[None, :], other=0).to(tl.float32)
    for s in tl.static_range(SCALES):
        share = tl.sum(tl.where(scale == s, weights, 0), 0)
        y += share * tl.load(scale_bias + s * CHANNELS + channel, channel_exists, other=0)[None, :]
    bias = tl.load(mix_bias + channel, channel_exists, other=0)
    y = narrow(y, h.dtype.element_ty)
    mixed = tl.zeros((ROWS, ALL_CHANNELS), tl.float32)
    mixed = multiply(y, mix_weight, 0, CHANNELS, channel, CHANNELS, 1, CHANNELS, mixed, PRECISION) + bias[None, :]
    passed = tl.load(h + at, (row < prefix)[:, None] & channel_exists[None, :], other=0).to(tl.float32)
    return y, tl.where((row < prefix)[:, None], passed, mixed)


@tuned(
    {"ROWS": 16, "SLICES": 8, "DEPTH": 32, "num_warps": 8},
    {"ROWS": 16, "SLICES": 1, "DEPTH": 32, "num_warps": 8, "maxnreg": 255},
    {"ROWS": 32, "SLICES": 1, "DEPTH": 32, "num_warps": 8},
    {"ROWS": 16, "SLICES": 8, "DEPTH": 64, "num_warps": 4, "maxnreg": 255},
    {"ROWS": 16, "SLICES": 4, "DEPTH": 64, "num_warps": 4, "maxnreg": 255},
    {"ROWS": 16, "SLICES": 2, "DEPTH": 128, "num_warps": 4, "maxnreg": 255},
    {"ROWS": 16, "SLICES": 1, "DEPTH": 64, "num_warps": 8, "maxnreg": 255},
    {"ROWS": 16, "SLICES": 1, "DEPTH": 128, "num_warps": 4, "maxnreg": 255},
    {"ROWS": 32, "SLICES": 1, "DEPTH": 64, "num_warps": 4, "maxnreg": 255},
    {"ROWS": 32, "SLICES": 1, "DEPTH": 64, "num_warps": 8, "maxnreg": 255},
    {"ROWS": 64, "SLICES": 1, "DEPTH": 64, "num_warps": 8, "maxnreg": 255},
    key=["work", "DIM", "CHANNELS", "SCALES", "SPECTRAL", "DROPOUT", "PRECISION"],
)
@triton.jit(do_not_specialize=["work"])
def mix_and_up_project(
    x,
    out,
    h,
    filtered,
    sums,
    scale_kernels,
    scale_bias,
    hidden_weight,
    hidden_bias,
    score_weight,
    score_bias,
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
    parts,
    x_batch_stride,
    x_token_stride,
    out_batch_stride,
    out_token_stride,
    work,
    DIM: tl.constexpr,
    CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    SCALES: tl.constexpr,
    SPECTRAL: tl.constexpr,
    DROPOUT: tl.constexpr,
    ALL_CHANNELS: tl.constexpr,
    ALL_HIDDEN: tl.constexpr,
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

    weights = image_weights(
        image,
        sums,
        parts,
        height * width,
        hidden_weight,
        hidden_bias,
        score_weight,
        score_bias,
        CHANNELS,
        HIDDEN,
        SCALES,
        ALL_CHANNELS,
        ALL_HIDDEN,
    )
    _, m = mix(
        h,
        filtered,
        weights,
        scale_kernels,
        scale_bias,
        mix_weight,
        mix_bias,
        row,
        tokens,
        prefix,
        height,
        width,
        CHANNELS,
        SCALES,
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
