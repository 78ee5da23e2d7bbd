"""The backward of the adapter: four kernels, and torch for the matrix products over all tokens.

The kernels are launched in this order: mix_and_up_project_backward, depthwise_backward, noise_backward (only with three
scales) and down_project_backward. A spectral mask needs four more: the filter of h runs before all others; then, before
down_project_backward, depthwise_input_backward, the filter by the conjugate mask, and the gradient of the mask. The
forward saves x, the bottleneck h, the statistics of the tokens and the sums of h. All sums are taken in a fixed order.

The gradient of down_weight does not need u, the input of the down projection. Let Ga = sum_t (rstd_t grad_h_t) (x_t -
mean_t)^T and Gb = sum_t grad_h_t x_t^T over tokens t. They are the gradients of Wa and Wb in
:func:`ht_kernels.folding.split_norm`, and one product with x gives both. Then

    grad down_weight = Ga * norm_gain + Gb * skip_gain
    grad norm_gain   = sum_c down_weight[c] * Ga[c]
    grad skip_gain   = sum_c down_weight[c] * Gb[c]
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ht_kernels.folding import KERNEL_SIZE, FoldedAdapter

from ..call import Layout, Training
from .kernels.depthwise_backward import depthwise_backward
from .kernels.depthwise_input_backward import depthwise_input_backward
from .kernels.down_project_backward import down_project_backward
from .kernels.mix_and_up_project_backward import mix_and_up_project_backward
from .kernels.noise_backward import noise_backward
from .prepared import TritonAdapter, depthwise_kernels, image_stride
from .spectral import filter_patches, mask_gradient, patches
from .state import SUM_ROWS
from .tuning import padded, size_of


def backward(
    prepared: TritonAdapter,
    grad_out: Tensor,
    x: Tensor,
    layout: Layout,
    training: Training,
    state: tuple[Tensor, Tensor, Tensor],
    grad_x: Tensor | None,
    tf32: bool,
) -> FoldedAdapter:
    """Compute the float32 gradients of the folded weights, and fill ``grad_x`` if given.

    The last dimension of all tokens is contiguous. Products were prepared for the dtype of the bottleneck in ``state``.
    """
    h, stats, sums = (t.contiguous() for t in state)
    return launch(prepared, grad_out, x, layout, training, h, stats, sums, grad_x, "tf32" if tf32 else "ieee")


def launch(
    prepared: TritonAdapter,
    grad_out: Tensor,
    x: Tensor,
    layout: Layout,
    training: Training,
    h: Tensor,
    stats: Tensor,
    sums: Tensor,
    grad_x: Tensor | None,
    precision: str,
) -> FoldedAdapter:
    """Launch the kernels and products, on tokens with a contiguous last dimension."""
    folded = prepared.folded
    if x.numel() == 0:
        return folded.map(lambda w: torch.zeros_like(w, dtype=torch.float32))
    batch, tokens, dim = x.shape
    channels, scales = h.shape[2], folded.scale_kernels.shape[0]
    (height, width, prefix, _), grid, seed = layout, layout.grid, training.seed
    parts, work = -(-tokens // SUM_ROWS), size_of(batch * tokens)
    hidden = 0 if folded.hidden_weight is None else folded.hidden_weight.shape[0]

    def tiles(tile: dict[str, Any]) -> tuple[int]:
        return (batch * -(-tokens // int(tile["ROWS"])),)

    kernels, mask = depthwise_kernels(prepared, sums, height * width), folded.mask
    filtered = h if mask is None else filter_patches(h, mask, grid, prefix)
    activation, convolved, grad_m, grad_y = (torch.empty_like(h) for _ in range(4))
    grad_sums = sums.new_empty(batch * parts, dim)
    mix_and_up_project_backward[tiles](
        grad_out,
        h,
        filtered,
        kernels,
        folded.mix_weight,
        folded.mix_bias,
        folded.up_weight,
        seed,
        activation,
        convolved,
        grad_m,
        grad_y,
        grad_sums,
        training.dropout,
        tokens,
        prefix,
        height,
        width,
        parts,
        image_stride(kernels),
        grad_out.stride(0),
        grad_out.stride(1),
        work,
        DIM=dim,
        CHANNELS=channels,
        SPECTRAL=mask is not None,
        DROPOUT=seed is not None,
        ALL_CHANNELS=padded(channels),
        PRECISION=precision,
    )

    grad_kernel, grad_bias = sums.new_empty(batch, channels, KERNEL_SIZE**2), sums.new_empty(batch, channels)
    depthwise_backward[lambda tile: (batch, -(-channels // tile["COLUMNS"]), KERNEL_SIZE)](
        grad_y, filtered, grad_kernel, grad_bias, tokens, prefix, height, width, work, CHANNELS=channels
    )

    weights, grad_patch = sums.new_ones(batch, scales), None
    noise: tuple[Tensor | None, ...] = (None,) * 4
    if scales == 3:
        grad_patch, pooled = torch.empty_like(grad_bias), torch.empty_like(grad_bias)
        units, grad_units = sums.new_empty(batch, hidden), sums.new_empty(batch, hidden)
        grad_score = torch.empty_like(weights)
        noise_backward[(batch,)](
            sums,
            grad_kernel,
            grad_bias,
            folded.scale_kernels,
            folded.scale_bias,
            folded.hidden_weight,
            folded.hidden_bias,
            folded.score_weight,
            folded.score_bias,
            pooled,
            units,
            grad_units,
            grad_score,
            weights,
            grad_patch,
            parts,
            height * width,
            CHANNELS=channels,
            HIDDEN=hidden,
            ALL_CHANNELS=padded(channels),
            ALL_HIDDEN=padded(hidden),
        )
        noise = grad_units.T @ pooled, grad_units.sum(0), grad_score.T @ units, grad_score.sum(0)

    through, grad_mask = None, None
    if mask is not None:
        grad_filtered = torch.empty_like(h)
        depthwise_input_backward[tiles](
            grad_y,
            kernels,
            grad_filtered,
            tokens,
            prefix,
            height,
            width,
            image_stride(kernels),
            work,
            CHANNELS=channels,
            ALL_CHANNELS=padded(channels),
        )
        through = filter_patches(grad_filtered, mask, grid, prefix, conjugated=True)
        grad_mask = mask_gradient(patches(grad_filtered, prefix), patches(h, prefix), mask, grid)

    grad_h = h.new_empty(batch, tokens, 2 * channels)
    target = x if grad_x is None else grad_x
    down_project_backward[tiles](
        x,
        grad_out,
        target,
        stats,
        grad_y,
        through,
        grad_patch,
        kernels,
        folded.down_weight,
        folded.norm_gain,
        folded.skip_gain,
        grad_h,
        tokens,
        prefix,
        height,
        width,
        image_stride(kernels),
        x.stride(0),
        x.stride(1),
        grad_out.stride(0),
        grad_out.stride(1),
        target.stride(0),
        target.stride(1),
        work,
        DIM=dim,
        CHANNELS=channels,
        POOL=grad_patch is not None,
        SPECTRAL=mask is not None,
        NEEDS_X=grad_x is not None,
        ALL_CHANNELS=padded(channels),
        PRECISION=precision,
    )

    both = _over_tokens(grad_h, x)
    by_skip = both[:channels]
    # Sum the rounded gradient, which the product also used; otherwise the mean does not cancel.
    by_norm = both[channels:] - (grad_h[..., channels:] * stats[..., :1]).sum((0, 1))[:, None]
    down_weight = folded.down_weight.float()
    return FoldedAdapter(
        down_weight=by_norm * folded.norm_gain + by_skip * folded.skip_gain,
        norm_gain=(down_weight * by_norm).sum(0),
        skip_gain=(down_weight * by_skip).sum(0),
        down_bias=grad_h[..., :channels].sum((0, 1), dtype=torch.float32),
        scale_kernels=(weights.T @ grad_kernel.flatten(1)).view_as(folded.scale_kernels),
        scale_bias=weights.T @ grad_bias,
        hidden_weight=noise[0],
        hidden_bias=noise[1],
        score_weight=noise[2],
        score_bias=noise[3],
        mix_weight=_over_tokens(grad_m, convolved),
        mix_bias=grad_m[:, prefix:].sum((0, 1), dtype=torch.float32),
        up_weight=_over_tokens(activation, grad_out).T,
        up_bias=grad_sums.sum(0),
        mask=grad_mask,
    )


def _over_tokens(a: Tensor, b: Tensor) -> Tensor:
    """The sum over tokens of the outer products of ``a`` (B, N, K) and ``b`` (B, N, D), as (K, D) in float32.

    The factors are in the dtype of ``a``.
    """
    if b.stride(0) < b.stride(1):  # sequence first: transposed, b can be flattened without a copy
        a, b = a.transpose(0, 1), b.transpose(0, 1)
    a, b = a.flatten(0, 1).T, b.flatten(0, 1).to(a.dtype)
    if a.dtype == torch.float32:
        return a @ b
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()
