"""The depthwise kernel of each image: scale_kernels and scale_bias, weighted by the noise estimator.

The kernel reads the sums of h and the weights of the estimator and of the scales. It writes 50 float32 numbers per
image and channel: 49 taps, then the bias, each a row of C numbers, as the convolution reads them. With a single scale
nothing depends on the image, so the kernel of one image is that of all.

One program handles ROWS of the 50 rows of one image.
"""

from __future__ import annotations

import triton
import triton.language as tl


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
    for first in range(0, parts, 16):
        part = first + tl.arange(0, 16)
        several = tl.load(
            sums + (image * parts + part)[:, None] * CHANNELS + channel[None, :],
            (part < parts)[:, None] & (channel < CHANNELS)[None, :],
            other=0,
        )
        total += tl.sum(several, 0)
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
def image_kernels(
    sums,
    scale_kernels,
    scale_bias,
    hidden_weight,
    hidden_bias,
    score_weight,
    score_bias,
    kernels,
    parts,
    patches,
    CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    SCALES: tl.constexpr,
    ALL_CHANNELS: tl.constexpr,
    ALL_HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
):
    image = tl.program_id(0)
    tap, channel, scale = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, ALL_CHANNELS), tl.arange(0, 4)
    channel_exists = channel < CHANNELS
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
        weights = tl.where(scale == 0, 1.0, 0.0)
    merged = tl.zeros((ALL_CHANNELS, ROWS), tl.float32)
    bias = tl.zeros((ALL_CHANNELS,), tl.float32)
    for s in tl.static_range(SCALES):
        share = tl.sum(tl.where(scale == s, weights, 0), 0)
        merged += share * tl.load(
            scale_kernels + (s * CHANNELS + channel)[:, None] * 49 + tap[None, :],
            channel_exists[:, None] & (tap < 49)[None, :],
            other=0,
        )
        bias += share * tl.load(scale_bias + s * CHANNELS + channel, channel_exists, other=0)
    kernels += image.to(tl.int64) * 50 * CHANNELS
    merged = tl.where(tap[None, :] == 49, bias[:, None], merged)
    tl.store(
        kernels + tap[:, None] * CHANNELS + channel[None, :],
        tl.trans(merged),
        (tap < 50)[:, None] & channel_exists[None, :],
    )
