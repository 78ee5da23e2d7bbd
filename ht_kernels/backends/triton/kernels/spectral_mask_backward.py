"""The gradient of a spectral mask from x and grad_out, through their Hartley transforms in registers.

The kernel reads x and grad_out once, 4 BCHW bytes in 16-bit types. It writes the gradient summed over IMAGES images, in
float32; the caller adds these sums in a fixed order.

With the Fourier transforms c - i d of x and c' - i d' of grad_out, the gradient of a mask p + i q is the sum over
images of 2 (c' c + d' d) / (H W) for p and 2 (c' d - d' c) / (H W) for q, and half of that in columns 0 and W / 2.

One program handles COLUMNS channels of IMAGES images, one image after the other.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .hartley import cosines_and_sines, frequencies, transform
from .spectral_filter import pixels


@triton.jit
def spectral_mask_backward(
    grad_out,
    x,
    across,
    down,
    grad_mask,
    batch,
    channels,
    height,
    width,
    image_stride,
    channel_stride,
    patch_stride,
    ALL_HEIGHT: tl.constexpr,
    ALL_WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
    IMAGES: tl.constexpr,
):
    part = tl.program_id(0)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    at, exists = pixels(channel, channels, height, width, channel_stride, patch_stride, ALL_HEIGHT, ALL_WIDTH)
    real = tl.zeros((COLUMNS, ALL_WIDTH, ALL_HEIGHT), tl.float32)
    imag = tl.zeros((COLUMNS, ALL_WIDTH, ALL_HEIGHT), tl.float32)
    before = tl.zeros((COLUMNS, ALL_WIDTH, ALL_HEIGHT), tl.float32)
    first = part * IMAGES
    # The loop transforms x and grad_out of each image in turn. disable_licm keeps the compiler from loading the
    # matrices before the loop, where they would occupy registers.
    for step in tl.range(0, 2 * tl.minimum(IMAGES, batch - first), disable_licm=True):
        start = (first.to(tl.int64) + step // 2) * image_stride
        source = tl.where(step % 2 == 0, x, grad_out)
        t = transform(tl.load(source + start + at, exists, other=0).to(tl.float32), across, down, PRECISION)
        if step % 2 == 1:
            cosines, sines = cosines_and_sines(before)
            grad_cosines, grad_sines = cosines_and_sines(t)
            real += grad_cosines * cosines + grad_sines * sines
            imag += grad_cosines * sines - grad_sines * cosines
        before = t

    v, v_exists = frequencies(ALL_WIDTH, width)
    u, u_exists = frequencies(ALL_HEIGHT, height)
    half = width // 2 + 1
    stored = (channel < channels)[:, None, None] & (v_exists & (v < half))[None, :, None] & u_exists[None, None, :]
    v, u = v[None, :, None], u[None, None, :]
    scale = tl.where((v == 0) | (2 * v == width), 0.25, 0.5) / (height * width)
    grad_mask += part.to(tl.int64) * channels * height * half * 2
    at = ((channel[:, None, None] * height + u) * half + v) * 2
    tl.store(grad_mask + at, real * scale, stored)
    tl.store(grad_mask + at + 1, imag * scale, stored)
