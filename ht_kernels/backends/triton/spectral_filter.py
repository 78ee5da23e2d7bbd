"""The spectral filter irfft2(mask * rfft2(x)) of each image and channel; its spectrum never leaves the chip. With the
conjugate mask it takes grad_out to grad_x.

Reads x once and writes out once, 4 BCHW bytes in 16-bit types; reads the mask of a channel for each image, from L2.

A mask p + i q on the frequencies v <= W / 2 makes of the Hartley transform t of an image

    (p + p') t(u, v) / 2 + e (p' - p) t(-u, -v) / 2 - e (q + q') t(u, -v) / 2 + (q' - q) t(-u, v) / 2

with p, q at (u, min(v, W - v)) and p', q' at the opposite u. e is 1 for v < W / 2, -1 for v > W / 2, and 0 in columns 0
and W / 2: there the imaginary parts that a real image cannot have drop out, as in ``irfft2``.

One program has COLUMNS channels of one image.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .hartley import frequencies, inverse, reflect_u, reflect_v, transform
from .numbers import narrow


@triton.jit
def pixels(
    channel, channels, height, width, channel_stride, patch_stride, ALL_HEIGHT: tl.constexpr, ALL_WIDTH: tl.constexpr
):
    """Where the pixels of channels of an image lie from its start, and whether there are such: (channels, y, x)."""
    row, column = tl.arange(0, ALL_HEIGHT)[None, :, None], tl.arange(0, ALL_WIDTH)[None, None, :]
    at = channel[:, None, None] * channel_stride + (row * width + column) * patch_stride
    return at, (channel < channels)[:, None, None] & (row < height) & (column < width)


@triton.jit
def _part(t, opposite, flipped, mirrored, mask, at, row, side):
    """What p and q, for ``side`` = -1, or p' and q', for ``side`` = 1, contribute; they are in ``row`` of the mask."""
    real, imag = tl.split(tl.load(mask + (at + row)[:, :, :, None] + tl.arange(0, 2)))
    return real * (t + side * opposite) + imag * (side * flipped - mirrored)


@triton.jit
def apply_mask(t, mask, channel, channels, height, width, mask_stride, CONJUGATED: tl.constexpr):
    """The transform ``t`` (channels, v, u) times the mask or its conjugate, over height * width."""
    v, _ = frequencies(t.shape[1], width)
    u, _ = frequencies(t.shape[2], height)
    v, u = v[None, :, None], u[None, None, :]
    at = tl.minimum(channel, channels - 1)[:, None, None] * mask_stride + 2 * tl.minimum(v, width - v)
    row_size = 2 * (width // 2 + 1)
    scale = 0.5 / (height * width)
    sign = tl.where((v == 0) | (2 * v == width), 0.0, tl.where(2 * v < width, scale, -scale))
    mirrored = sign * reflect_v(t)
    opposite = reflect_u(mirrored)
    flipped = scale * reflect_u(t)
    t *= scale
    if CONJUGATED:
        mirrored, flipped = -mirrored, -flipped
    if t.shape[1] * t.shape[2] > 1024:  # a loop, because both parts together do not fit registers
        result = tl.zeros_like(t)
        for side in tl.range(-1, 2, 2):
            row = row_size * tl.where((side < 0) | (u == 0), u, height - u)
            result += _part(t, opposite, flipped, mirrored, mask, at, row, side)
    else:
        result = _part(t, opposite, flipped, mirrored, mask, at, row_size * u, -1)
        row = row_size * tl.where(u == 0, 0, height - u)
        result += _part(t, opposite, flipped, mirrored, mask, at, row, 1)
    return result


@triton.jit
def spectral_filter(
    x,
    mask,
    across,
    down,
    out,
    channels,
    height,
    width,
    image_stride,
    channel_stride,
    patch_stride,
    mask_stride,
    ALL_HEIGHT: tl.constexpr,
    ALL_WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
    CONJUGATED: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * image_stride
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    at, exists = pixels(channel, channels, height, width, channel_stride, patch_stride, ALL_HEIGHT, ALL_WIDTH)
    s = tl.load(x + start + at, exists, other=0).to(tl.float32)
    t = transform(s, across, down, PRECISION)
    t = apply_mask(t, mask, channel, channels, height, width, mask_stride, CONJUGATED)
    s = inverse(t, across, down, PRECISION)
    tl.store(out + start + at, narrow(s, out.dtype.element_ty), exists)
