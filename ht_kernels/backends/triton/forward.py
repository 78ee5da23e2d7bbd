"""The forward of the adapter: two kernels, or three with a spectral mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ht_kernels.folding import FoldedAdapter

from ..call import Layout, Training, unit_stride
from .kernels.down_project import down_project
from .kernels.mix_and_up_project import mix_and_up_project
from .spectral import filter_patches
from .state import SUM_ROWS, empty_state
from .tuning import padded, size_of


def infer(folded: FoldedAdapter, x: Tensor, layout: Layout, tf32: bool) -> Tensor:
    """Compute the adapter of ``x``. ``tf32`` allows tensor cores to round the factors of float32 products."""
    out = torch.empty_like(x)
    h, _, sums = empty_state(x, folded, x.dtype)
    fill(folded, x, layout, Training(None, None, 0.0, x.dtype), out, h, None, sums, tf32)
    return out


def fill(
    folded: FoldedAdapter,
    x: Tensor,
    layout: Layout,
    training: Training,
    out: Tensor,
    h: Tensor,
    stats: Tensor | None,
    sums: Tensor,
    tf32: bool,
) -> None:
    """Fill ``out``, which may have any strides, and the state. The matrices in ``folded`` have the dtype of ``h``."""
    if out.numel() == 0:
        return
    source = unit_stride(x)
    target = out if out.stride(2) == 1 else torch.empty_like(source)
    launch(folded, source, layout, training, target, h, stats, sums, "tf32" if tf32 else "ieee")
    if target is not out:
        out.copy_(target)


def launch(
    folded: FoldedAdapter,
    x: Tensor,
    layout: Layout,
    training: Training,
    out: Tensor,
    h: Tensor,
    stats: Tensor | None,
    sums: Tensor,
    precision: str,
) -> None:
    """Launch the kernels, on tokens with a contiguous last dimension."""
    (batch, tokens, dim), channels, scales = x.shape, h.shape[2], folded.scale_kernels.shape[0]
    hidden = 0 if folded.hidden_weight is None else folded.hidden_weight.shape[0]
    work, seed = size_of(batch * tokens), training.seed

    def tiles(tile: dict[str, Any]) -> int:
        return batch * -(-tokens // int(tile["ROWS"]))

    down_project[lambda tile: (tiles(tile), -(-channels // tile["COLUMNS"]))](
        x,
        folded.down_weight,
        folded.norm_gain,
        folded.skip_gain,
        folded.down_bias,
        h,
        sums,
        stats,
        tokens,
        layout.prefix_tokens,
        x.stride(0),
        x.stride(1),
        layout.eps,
        work,
        DIM=dim,
        CHANNELS=channels,
        POOL=scales == 3,
        STATS=stats is not None,
        PRECISION=precision,
        SUM_ROWS=SUM_ROWS,
    )
    filtered = h
    if folded.mask is not None:
        filtered = filter_patches(h, folded.mask, layout.grid, layout.prefix_tokens)
    mix_and_up_project[lambda tile: (tiles(tile), tile["SLICES"])](
        x,
        out,
        h,
        filtered,
        sums,
        folded.scale_kernels,
        folded.scale_bias,
        folded.hidden_weight,
        folded.hidden_bias,
        folded.score_weight,
        folded.score_bias,
        folded.mix_weight,
        folded.mix_bias,
        folded.up_weight,
        folded.up_bias,
        seed,
        training.dropout,
        tokens,
        layout.prefix_tokens,
        *layout.grid,
        -(-tokens // SUM_ROWS),
        x.stride(0),
        x.stride(1),
        out.stride(0),
        out.stride(1),
        work,
        DIM=dim,
        CHANNELS=channels,
        HIDDEN=hidden,
        SCALES=scales,
        SPECTRAL=folded.mask is not None,
        DROPOUT=seed is not None,
        ALL_CHANNELS=padded(channels),
        ALL_HIDDEN=padded(hidden),
        PRECISION=precision,
    )
