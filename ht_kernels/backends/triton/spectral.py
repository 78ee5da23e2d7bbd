"""Launches of the spectral filter, for images in any layout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .kernels.hartley import matrix
from .kernels.spectral_filter import spectral_filter
from .kernels.spectral_mask_backward import spectral_mask_backward
from .tuning import padded

_NUMBERS = 1024
"""The number of pixels in the tile of a program, unless a single padded image has more."""
_IMAGES = 4
"""The number of images over which one program sums the gradient of the mask."""


def filter_images(x: Tensor, mask: Tensor, out: Tensor, grid: tuple[int, int], conjugated: bool = False) -> None:
    """Write to ``out`` the images ``x``, filtered by ``mask`` (C or 1, H, W // 2 + 1, 2) float32 or its conjugate.

    ``x`` and ``out`` are (B, C, H * W) and have the same strides.
    """
    if x.numel() == 0:
        return
    tile = tile_of(x.dtype, grid)
    mask_stride = 0 if mask.shape[0] == 1 else mask.stride(0)
    spectral_filter[x.shape[0], -(-x.shape[1] // tile["COLUMNS"])](
        x, mask, *_matrices(x, grid), out, x.shape[1], *grid, *x.stride(), mask_stride, CONJUGATED=conjugated, **tile
    )


def patches(h: Tensor, prefix: int) -> Tensor:
    """The patches of tokens (B, P + H * W, C), as (B, C, H * W)."""
    return h[:, prefix:].transpose(1, 2)


def filter_patches(h: Tensor, mask: Tensor, grid: tuple[int, int], prefix: int, conjugated: bool = False) -> Tensor:
    """Filter the patches of contiguous tokens ``h`` (B, P + H * W, C). Prefix tokens of the result are not written."""
    out = torch.empty_like(h)
    filter_images(patches(h, prefix), mask, patches(out, prefix), grid, conjugated)
    return out


def mask_gradient(grad_out: Tensor, x: Tensor, mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """The gradient of ``mask`` in float32. ``grad_out`` and ``x`` are (B, C, H * W) and have the same strides."""
    if x.numel() == 0:
        return torch.zeros_like(mask)
    batch, channels, _ = x.shape
    tile, parts = tile_of(x.dtype, grid), -(-batch // _IMAGES)
    sums = mask.new_empty(parts, channels, *mask.shape[1:])
    spectral_mask_backward[parts, -(-channels // tile["COLUMNS"])](
        grad_out, x, *_matrices(x, grid), sums, batch, channels, *grid, *x.stride(), IMAGES=_IMAGES, **tile
    )
    return sums.sum((0, 1) if mask.shape[0] == 1 else 0).view_as(mask)


def _matrices(x: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    return matrix(grid[1], x.device), matrix(grid[0], x.device)


def tile_of(dtype: torch.dtype, grid: tuple[int, int]) -> dict[str, Any]:
    """The constants with which both kernels run on images of a grid.

    Images larger than 32x32 fill the registers. The filter then spills at most 24 bytes per thread on compute
    capability 9.0, 104 on 8.9 and 96 on 8.0; the gradient of the mask spills none on 9.0, and 160 on 8.9 and 8.0.
    """
    height, width = map(padded, grid)
    return {
        "ALL_HEIGHT": height,
        "ALL_WIDTH": width,
        "COLUMNS": max(1, _NUMBERS // (height * width)),
        "PRECISION": "tf32" if dtype == torch.bfloat16 else "tf32x3",  # storing bfloat16 loses more
        "num_warps": 4 if height * width < _NUMBERS else 8,
        "num_stages": 1,
    }
