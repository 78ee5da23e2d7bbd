"""Files with the folded weights of adapters, which the C library reads: ``ht_load_adapters`` in ht_kernels.h.

docs/guides/c-and-tensorrt.md describes the file byte by byte.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ht_kernels.arguments import need_whole, pair
from ht_kernels.errors import InputError
from ht_kernels.files import write_whole
from ht_kernels.folding import FoldedAdapter, fold_adapter, on_grid

from .folded import FoldedHTCLIP

MAGIC = b"HTADAPT\0"
VERSION = 1
_ALIGNMENT = 64
_HEADER = struct.Struct("<8sIIQQ")
_ENTRY = struct.Struct(f"<9qfI{len(FoldedAdapter._fields)}Q")
_LARGEST_SIDE = 2**20


class _Saved(NamedTuple):
    block: int
    folded: FoldedAdapter
    eps: float


@torch.no_grad()
def save_adapters(
    model: FoldedHTCLIP | nn.Module,
    path: str | Path,
    *,
    grid: tuple[int, int] | None = None,
    prefix_tokens: int | None = None,
) -> None:
    """Write the folded weights of a model's adapters, or of one adapter, in float32, for ``ht_load_adapters`` in C.

    The file appears whole or not at all, and an existing one is replaced. It serves every CPU: C packs the weights for
    the processor that it runs on, by ``ht_adapter_prepare_cpu``.

    Args:
        model: a folded model in float32, whose adapters are written with the numbers of their blocks; or an adapter,
            such as an :class:`ht_kernels.HTAdapter`, which is written as that of block 0.
        path: the file to write.
        grid, prefix_tokens: for an adapter: the patch grid (H, W) and the number of tokens in front of it, 1 unless
            given. C may change both where the adapter has no spectral filter. A folded model has its own.

    Raises:
        InputError: the model has no adapters, is not in float32 or has values that are not finite, the argument
            ``grid`` or ``prefix_tokens`` does not fit, or the file cannot be written.
        TypeError: ``model`` is neither a folded model nor an adapter.
        ValueError: a part of the adapter is missing.
    """
    if isinstance(model, FoldedHTCLIP):
        if grid is not None or prefix_tokens is not None:
            raise InputError(
                "grid and prefix_tokens are for an adapter, and a folded model has its own: leave them out"
            )
        grid, prefix_tokens = model.grid, model.prefix_tokens
        parts: dict[str, Any] = dict(model.adapters.items())
        saved = [_Saved(int(i), adapter.values(), adapter.eps) for i, adapter in parts.items()]
        if not saved:
            raise InputError("the model has no adapters, so there is nothing to write")
    else:
        if not hasattr(model, "adapter_conv"):
            raise TypeError(
                f"model must be a folded model or an adapter, got {type(model).__name__}: ht_kernels.fold makes a "
                "folded model of an HTCLIP"
            )
        sides = pair(grid)
        if sides is None or not all(1 <= side <= _LARGEST_SIDE for side in sides):
            raise InputError(
                "an adapter is written for a patch grid: grid must be (height, width), two whole numbers from 1 to "
                f"{_LARGEST_SIDE}, got {grid!r}"
            )
        grid, prefix_tokens = sides, 1 if prefix_tokens is None else need_whole("prefix_tokens", prefix_tokens)
        if not 0 <= prefix_tokens <= _LARGEST_SIDE:
            raise InputError(f"prefix_tokens must be from 0 to {_LARGEST_SIDE}, got {prefix_tokens}")
        folded = fold_adapter(model)
        norm: Any = model.norm
        saved = [_Saved(0, on_grid(folded, grid), float(norm.eps))]
    write_whole(Path(path), _content(saved, grid, prefix_tokens), "the adapters")


def _content(saved: list[_Saved], grid: tuple[int, int], prefix_tokens: int) -> bytes:
    saved = sorted(saved, key=lambda one: one.block)
    entries, weights = bytearray(), bytearray()
    start = _HEADER.size + len(saved) * _ENTRY.size
    for block, folded, eps in saved:
        entries += _entry(block, folded, eps, grid, prefix_tokens)
        for weight in folded:
            if weight is not None:
                weights += bytes(-(start + len(weights)) % _ALIGNMENT)
                weights += weight.detach().cpu().contiguous().numpy().astype("<f4").tobytes()
    size = start + len(weights) + 4
    content = _HEADER.pack(MAGIC, VERSION, len(FoldedAdapter._fields), len(saved), size) + entries + weights
    return bytes(content) + struct.pack("<I", zlib.crc32(content))


def _entry(block: int, folded: FoldedAdapter, eps: float, grid: tuple[int, int], prefix_tokens: int) -> bytes:
    for name, weight in zip(folded._fields, folded, strict=True):
        if weight is None:
            continue
        if weight.dtype != torch.float32:
            raise InputError(
                f"the {name} of block {block} is in {weight.dtype}, and the file holds float32: fold the model without "
                "a dtype, or call float() on it"
            )
        if not weight.isfinite().all():
            raise InputError(
                f"the {name} of block {block} has values that are not finite (NaN or infinity), as after a training "
                "that diverged: train again with a lower learning rate"
            )
    dim, bottleneck = folded.up_weight.shape
    hidden = 0 if folded.hidden_weight is None else folded.hidden_weight.shape[0]
    mask, scales = folded.mask, folded.scale_kernels.shape[0]
    if mask is not None and mask.shape[1:3] != (grid[0], grid[1] // 2 + 1):
        raise InputError(
            f"the spectral filter of block {block} has {mask.shape[1]}x{mask.shape[2]} frequencies, and a grid of "
            f"{grid[0]}x{grid[1]} has {grid[0]}x{grid[1] // 2 + 1}: name the grid that it was made for"
        )
    masks = 0 if mask is None else mask.shape[0]
    counts = (0 if weight is None else weight.numel() for weight in folded)
    return _ENTRY.pack(block, dim, bottleneck, hidden, scales, *grid, prefix_tokens, masks, eps, 0, *counts)
