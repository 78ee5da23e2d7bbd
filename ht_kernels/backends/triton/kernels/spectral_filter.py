"""The spectral filter irfft2(mask * rfft2(x)) of each image and channel; the spectrum never leaves the chip.

With the conjugate mask, the same kernel computes grad_x from grad_out.

The kernel reads x once and writes out once, 4 BCHW bytes in 16-bit types. For each image it reads the masks of its
channels from L2.

A mask p + i q on the frequencies v <= W / 2 turns the Hartley transform t of an image into

    (p a - q b + r) / 2 with a = t(u, v) - e t(-u, -v), b = t(-u, v) + e t(u, -v), and r(-u, v) = p b + q a

with p, q at (u, min(v, W - v)). e is 1 for v < W / 2, -1 for v > W / 2, and 0 in columns 0 and W / 2. This removes the
imaginary parts that the spectrum of a real image cannot have in these two columns, as ``irfft2`` does.

One program handles COLUMNS channels of one image.
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
    """The offsets (channels, y, x) of the pixels of an image's channels, and whether each pixel exists."""
    row, column = tl.arange(0, ALL_HEIGHT)[None, :, None], tl.arange(0, ALL_WIDTH)[None, None, :]
    at = channel[:, None, None] * channel_stride + (row * width + column) * patch_stride
    return at, (channel < channels)[:, None, None] & (row < height) & (column < width)


@triton.jit
def apply_mask(t, mask, channel, channels, height, width, mask_stride, CONJUGATED: tl.constexpr):
    """Multiply the transform ``t`` (channels, v, u) by the mask or its conjugate, and divide by height * width."""
    v, _ = frequencies(t.shape[1], width)
    u, _ = frequencies(t.shape[2], height)
    v, u = v[None, :, None], u[None, None, :]
    scale = 0.5 / (height * width)
    sign = tl.where((v == 0) | (2 * v == width), 0.0, tl.where(2 * v < width, scale, -scale))
    mirrored = sign * reflect_v(t)
    t *= scale
    a = t - reflect_u(mirrored)
    b = mirrored + reflect_u(t)
    at = tl.minimum(channel, channels - 1)[:, None, None] * mask_stride
    at += 2 * ((width // 2 + 1) * u + tl.minimum(v, width - v))
    p, q = tl.split(tl.load(mask + at[:, :, :, None] + tl.arange(0, 2)))
    if CONJUGATED:
        q = -q
    return p * a - q * b + reflect_u(p * b + q * a)


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
