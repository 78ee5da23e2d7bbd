"""The gradient of what the depthwise convolution read: grad_y correlated with each image's own kernel, mirrored.

Reads grad_y, 2 BNC bytes in 16-bit types, again for each tap from the L1 cache, and writes as much. Without a spectral
filter down_project_backward does this itself.

One program has ROWS tokens of one image and all channels.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..tuning import tuned
from .mix_and_up_project import correlate
from .numbers import narrow


@tuned(
    {"ROWS": 16, "num_warps": 4},
    {"ROWS": 16, "num_warps": 8},
    {"ROWS": 32, "num_warps": 4},
    {"ROWS": 32, "num_warps": 8},
    {"ROWS": 64, "num_warps": 8},
    key=["work", "CHANNELS", "SCALES"],
)
@triton.jit(do_not_specialize=["work"])
def depthwise_input_backward(
    grad_y,
    weights,
    scale_kernels,
    grad,
    tokens,
    prefix,
    height,
    width,
    work,
    CHANNELS: tl.constexpr,
    SCALES: tl.constexpr,
    ALL_CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
):
    tiles = tl.cdiv(tokens, ROWS)
    image = tl.program_id(0) // tiles
    row = tl.program_id(0) % tiles * ROWS + tl.arange(0, ROWS)
    channel, scale = tl.arange(0, ALL_CHANNELS), tl.arange(0, 4)
    start = image.to(tl.int64) * tokens * CHANNELS
    value = correlate(
        grad_y + start,
        tl.load(weights + image * SCALES + scale, scale < SCALES, other=0),
        scale_kernels,
        row,
        tokens,
        prefix,
        height,
        width,
        CHANNELS,
        SCALES,
        True,
        ROWS,
        ALL_CHANNELS,
    )
    tl.store(
        grad + start + row[:, None] * CHANNELS + channel[None, :],
        narrow(value, grad.dtype.element_ty),
        (row < tokens)[:, None] & (channel < CHANNELS)[None, :],
    )
