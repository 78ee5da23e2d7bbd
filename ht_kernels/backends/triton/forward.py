"""The forward of the adapter: two kernels, one more with a noise estimator and one more with a spectral mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..call import Layout, Training, unit_stride
from .kernels.down_project import down_project
from .kernels.mix_and_up_project import mix_and_up_project
from .kernels.stacked_down_project import stacked_down_project
from .prepared import TritonAdapter, depthwise_kernels, image_stride
from .spectral import filter_patches
from .state import SUM_ROWS, empty_state
from .tuning import padded, size_of


def infer(prepared: TritonAdapter, x: Tensor, layout: Layout, tf32: bool) -> Tensor:
    """Compute the adapter of ``x``. ``tf32`` allows tensor cores to round the factors of float32 products."""
    out = torch.empty_like(x)
    h, _, sums = empty_state(x, prepared.folded, x.dtype)
    fill(prepared, x, layout, Training(None, None, 0.0, x.dtype), out, h, None, sums, tf32)
    return out


def fill(
    prepared: TritonAdapter,
    x: Tensor,
    layout: Layout,
    training: Training,
    out: Tensor,
    h: Tensor,
    stats: Tensor | None,
    sums: Tensor,
    tf32: bool,
) -> None:
    """Fill ``out``, which may have any strides, and the state. Products were prepared for the dtype of ``h``."""
    if out.numel() == 0:
        return
    source = unit_stride(x)
    target = out if out.stride(2) == 1 else torch.empty_like(source)
    launch(prepared, source, layout, training, target, h, stats, sums, "tf32" if tf32 else "ieee")
    if target is not out:
        out.copy_(target)


def launch(
    prepared: TritonAdapter,
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
    (batch, tokens, dim), channels, folded = x.shape, h.shape[2], prepared.folded
    work, seed, pool = size_of(batch * tokens), training.seed, folded.hidden_weight is not None

    def tiles(tile: dict[str, Any]) -> int:
        return batch * -(-tokens // int(tile["ROWS"]))

    def tiles_of(columns: int) -> Callable[[dict[str, Any]], tuple[int, int]]:
        return lambda tile: (tiles(tile), -(-columns // int(tile["COLUMNS"])))

    place = tokens, layout.prefix_tokens, x.stride(0), x.stride(1), layout.eps, work
    sizes = {"DIM": dim, "CHANNELS": channels, "POOL": pool, "SUM_ROWS": SUM_ROWS}
    if prepared.stacked is not None:
        stacked_down_project[tiles_of(2 * channels)](
            x, prepared.stacked, prepared.row_sums, folded.down_bias, h, sums, *place, **sizes
        )
    else:
        down_project[tiles_of(channels)](
            x,
            folded.down_weight,
            folded.norm_gain,
            folded.skip_gain,
            folded.down_bias,
            h,
            sums,
            stats,
            *place,
            STATS=stats is not None,
            PRECISION=precision,
            **sizes,
        )
    kernels = depthwise_kernels(prepared, sums, layout.height * layout.width)
    filtered = h
    if folded.mask is not None:
        filtered = filter_patches(h, folded.mask, layout.grid, layout.prefix_tokens)
    mix_and_up_project[lambda tile: (tiles(tile), tile["SLICES"])](
        x,
        out,
        h,
        filtered,
        kernels,
        folded.mix_weight,
        folded.mix_bias,
        folded.up_weight,
        folded.up_bias,
        seed,
        training.dropout,
        tokens,
        layout.prefix_tokens,
        *layout.grid,
        image_stride(kernels),
        x.stride(0),
        x.stride(1),
        out.stride(0),
        out.stride(1),
        work,
        DIM=dim,
        CHANNELS=channels,
        SPECTRAL=folded.mask is not None,
        DROPOUT=seed is not None,
        ALL_CHANNELS=padded(channels),
        PRECISION=precision,
    )
