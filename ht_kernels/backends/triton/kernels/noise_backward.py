"""The noise estimator backwards: from the gradient of an image's depthwise kernel to the gradient of its bottleneck.

The kernel reads the gradients that depthwise_backward wrote and the sums of h, and recomputes the noise estimator. It
writes, in float32, ``pooled``, ``hidden``, ``grad_hidden`` and ``grad_score``, whose products are the gradients of the
estimator's weights; the weights of the scales; and ``grad_patch``, the gradient that every patch of h gets through the
mean over patches.

One program handles one image, and loops over the channels in steps of 16.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .image_kernels import scale_weights


@triton.jit
def noise_backward(
    sums,
    grad_kernel,
    grad_bias,
    scale_kernels,
    scale_bias,
    hidden_weight,
    hidden_bias,
    score_weight,
    score_bias,
    pooled,
    hidden,
    grad_hidden,
    grad_score,
    weights,
    grad_patch,
    parts,
    patches,
    CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    ALL_CHANNELS: tl.constexpr,
    ALL_HIDDEN: tl.constexpr,
):
    image = tl.program_id(0)
    channel, unit, scale = tl.arange(0, ALL_CHANNELS), tl.arange(0, ALL_HIDDEN), tl.arange(0, 4)
    channel_exists, unit_exists, scale_exists = channel < CHANNELS, unit < HIDDEN, scale < 3
    mean, before, weight = scale_weights(
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
    tap = tl.arange(0, 64)
    grad_weight = tl.zeros((4,), tl.float32)
    for first in range(0, CHANNELS, 16):
        some = first + tl.arange(0, 16)
        both = (some < CHANNELS)[:, None] & (tap < 49)[None, :]
        at = some[:, None] * 49 + tap[None, :]
        kernel = tl.load(grad_kernel + image * CHANNELS * 49 + at, both, other=0)
        bias = tl.load(grad_bias + image * CHANNELS + some, some < CHANNELS, other=0)
        for s in tl.static_range(3):
            taps = tl.load(scale_kernels + s * CHANNELS * 49 + at, both, other=0)
            shift = tl.load(scale_bias + s * CHANNELS + some, some < CHANNELS, other=0)
            total = tl.sum(tl.sum(kernel * taps, 1) + bias * shift, 0)
            grad_weight += tl.where(scale == s, total, 0)
    score_grad = weight * (grad_weight - tl.sum(weight * grad_weight, 0))
    score_matrix = tl.load(
        score_weight + scale[:, None] * HIDDEN + unit[None, :], scale_exists[:, None] & unit_exists[None, :], other=0
    )
    hidden_grad = tl.where(before > 0, tl.sum(score_grad[:, None] * score_matrix, 0), 0)
    hidden_matrix = tl.load(
        hidden_weight + unit[:, None] * CHANNELS + channel[None, :],
        unit_exists[:, None] & channel_exists[None, :],
        other=0,
    )
    tl.store(pooled + image * CHANNELS + channel, mean, channel_exists)
    tl.store(hidden + image * HIDDEN + unit, tl.maximum(before, 0), unit_exists)
    tl.store(grad_hidden + image * HIDDEN + unit, hidden_grad, unit_exists)
    tl.store(grad_score + image * 3 + scale, score_grad, scale_exists)
    tl.store(weights + image * 3 + scale, weight, scale_exists)
    tl.store(
        grad_patch + image * CHANNELS + channel,
        tl.sum(hidden_grad[:, None] * hidden_matrix, 0) / patches,
        channel_exists,
    )
