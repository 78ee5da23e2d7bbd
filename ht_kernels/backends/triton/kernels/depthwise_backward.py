"""The gradients of each image's depthwise kernel and bias.

grad_kernel[c, tap] is the sum over patches of grad_y times the neighbour at the tap in h, the input of the convolution.

The kernel reads grad_y and h from memory, 4 BNC bytes in 16-bit types, and again from the L1 cache for each tap. It
writes 50 float32 numbers per image and channel.

One program handles one image, COLUMNS channels and one of the seven rows of taps, and loops over the patches in steps
of ROWS.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..tuning import tuned


@tuned(
    {"ROWS": 32, "COLUMNS": 16, "num_warps": 2},
    {"ROWS": 64, "COLUMNS": 16, "num_warps": 4},
    {"ROWS": 64, "COLUMNS": 32, "num_warps": 4},
    {"ROWS": 128, "COLUMNS": 16, "num_warps": 4},
    key=["work", "CHANNELS"],
)
@triton.jit(do_not_specialize=["work"])
def depthwise_backward(
    grad_y,
    h,
    grad_kernel,
    grad_bias,
    tokens,
    prefix,
    height,
    width,
    work,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    image, tap_row = tl.program_id(0), tl.program_id(2)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    channel_exists = channel < CHANNELS
    start = (image.to(tl.int64) * tokens + prefix) * CHANNELS
    grad_y += start
    h += start
    patches = height * width
    for tap in range(7):
        total = tl.zeros((COLUMNS,), tl.float32)
        for first in range(0, patches, ROWS):
            patch = first + tl.arange(0, ROWS)
            at_row, at_column = patch // width + tap_row - 3, patch % width + tap - 3
            inside = (patch < patches) & (at_row >= 0) & (at_row < height) & (at_column >= 0) & (at_column < width)
            both = inside[:, None] & channel_exists[None, :]
            grad = tl.load(grad_y + patch[:, None] * CHANNELS + channel[None, :], both, other=0)
            neighbour = at_row * width + at_column
            value = tl.load(h + neighbour[:, None] * CHANNELS + channel[None, :], both, other=0)
            total += tl.sum(grad.to(tl.float32) * value.to(tl.float32), 0)
        tl.store(grad_kernel + (image * CHANNELS + channel) * 49 + tap_row * 7 + tap, total, channel_exists)
    if tap_row == 0:
        total = tl.zeros((COLUMNS,), tl.float32)
        for first in range(0, patches, ROWS):
            patch = first + tl.arange(0, ROWS)
            both = (patch < patches)[:, None] & channel_exists[None, :]
            total += tl.sum(
                tl.load(grad_y + patch[:, None] * CHANNELS + channel[None, :], both, other=0).to(tl.float32), 0
            )
        tl.store(grad_bias + image * CHANNELS + channel, total, channel_exists)
