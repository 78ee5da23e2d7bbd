"""The gradient of the input of the depthwise convolution: grad_y correlated with each image's mirrored kernel.

The kernel reads grad_y from memory, 2 BNC bytes in 16-bit types, and again from the L1 cache for each tap. It writes as
many bytes. It is needed with a spectral filter only; without one, down_project_backward does the same work.

One program handles ROWS tokens of one image and all channels.
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
    key=["work", "CHANNELS"],
)
@triton.jit(do_not_specialize=["work"])
def depthwise_input_backward(
    grad_y,
    kernels,
    grad,
    tokens,
    prefix,
    height,
    width,
    kernel_stride,
    work,
    CHANNELS: tl.constexpr,
    ALL_CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
):
    tiles = tl.cdiv(tokens, ROWS)
    image = tl.program_id(0) // tiles
    row = tl.program_id(0) % tiles * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, ALL_CHANNELS)
    start = image.to(tl.int64) * tokens * CHANNELS
    value = correlate(
        grad_y + start,
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
    tl.store(
        grad + start + row[:, None] * CHANNELS + channel[None, :],
        narrow(value, grad.dtype.element_ty),
        (row < tokens)[:, None] & (channel < CHANNELS)[None, :],
    )
