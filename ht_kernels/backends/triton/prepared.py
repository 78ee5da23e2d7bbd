"""The prepared weights of an adapter, and the depthwise kernels of its images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ht_kernels.folding import KERNEL_SIZE, FoldedAdapter

from .. import gpu
from .kernels.image_kernels import image_kernels
from .kernels.stack_down_weight import stack_down_weight
from .tuning import padded

_ROWS = 16
"""The number of rows of a depthwise kernel that one program merges."""


class TritonAdapter(NamedTuple):
    """The weights of an adapter, prepared for products in one dtype."""

    folded: FoldedAdapter
    """The folded weights, aligned, with the three matrices in the dtype of products."""
    kernels: Tensor | None
    """The depthwise kernel of all images, (1, 50, C) in float32; None if each image has its own."""
    stacked: Tensor | None
    """The rows of Wa and Wb of :func:`ht_kernels.folding.split_norm` in turn, (2 C, D) in the dtype of tokens; None in
    training and for float32 tokens."""
    row_sums: Tensor | None
    """The sums of the rows of the rounded Wa, (C,) in float32; None if ``stacked`` is None."""


def prepare(folded: FoldedAdapter, dtype: torch.dtype, training: bool) -> TritonAdapter:
    """Prepare weights for products in ``dtype``.

    Training does not stack: its weights change with each step, and under autocast its tokens are float32, which a
    product with unnormalized tokens would round.
    """
    ready = gpu.ready(folded, dtype)
    kernels = _merge(ready, None, 1) if ready.hidden_weight is None else None
    if training or dtype == torch.float32:
        return TritonAdapter(ready, kernels, None, None)
    weight = gpu.aligned(folded.down_weight)  # as precise as it came: its products with the gains are rounded once
    channels, dim = weight.shape
    stacked, row_sums = weight.new_empty((2 * channels, dim), dtype=dtype), ready.down_bias.new_empty(channels)
    if weight.numel():
        stack_down_weight[(channels,)](weight, ready.norm_gain, ready.skip_gain, stacked, row_sums, DIM=dim)
    return TritonAdapter(ready, kernels, stacked, row_sums)


def depthwise_kernels(prepared: TritonAdapter, sums: Tensor, patches: int) -> Tensor:
    """The depthwise kernels of the images, (B, 50, C) in float32, or (1, 50, C) if all have the same.

    Rows are the 49 taps, then the bias. ``sums`` (B, ceil(N / 16), C) are those of the bottleneck over ``patches``.
    """
    return _merge(prepared.folded, sums, patches) if prepared.kernels is None else prepared.kernels


def image_stride(kernels: Tensor) -> int:
    """The number of elements from the depthwise kernel of an image to that of the next: 0 if all have the same."""
    return 0 if kernels.shape[0] == 1 else kernels.stride(0)


def _merge(folded: FoldedAdapter, sums: Tensor | None, patches: int) -> Tensor:
    """The scales of each image, merged by its noise estimator; of one image if there is a single scale."""
    scales, channels = folded.scale_bias.shape
    images, parts = (1, 0) if sums is None else sums.shape[:2]
    hidden = 0 if folded.hidden_weight is None else folded.hidden_weight.shape[0]
    rows = KERNEL_SIZE**2 + 1
    kernels = folded.scale_bias.new_empty(images, rows, channels)
    image_kernels[images, -(-rows // _ROWS)](
        sums,
        folded.scale_kernels,
        folded.scale_bias,
        folded.hidden_weight,
        folded.hidden_bias,
        folded.score_weight,
        folded.score_bias,
        kernels,
        parts,
        patches,
        CHANNELS=channels,
        HIDDEN=hidden,
        SCALES=scales,
        ALL_CHANNELS=padded(channels),
        ALL_HIDDEN=padded(hidden),
        ROWS=_ROWS,
    )
    return kernels
