"""Injection of new adapters into a frozen tower."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ht_kernels.errors import InputError
from ht_kernels.nn import HTAdapter

from .mona import BatchFirstMona, SequenceFirstMona
from .towers import Tower, find_tower


def inject(
    clip_model: nn.Module,
    variant: str = "hybrid",
    bottleneck: int = 64,
    layers: int | Iterable[int] | None = None,
    spectral: str | None = None,
    start: str = "published",
) -> nn.Module:
    """Freeze a CLIP model and add a new adapter after blocks of its vision tower, in place.

    ``encode_image`` then uses the adapters, and they are the only trainable parameters. They have the published names:
    ``blocks.{i}.mona.clip_mona.*`` or ``resblocks.{i}.mona.clip_mona.*`` in towers that are batch first, and
    ``resblocks.{i}.mona.*`` in those of the original OpenAI package.

    Args:
        clip_model: a CLIP model, its vision tower, or a timm vision transformer.
        variant: ``baseline``, ``noise_aware``, ``freq_enhanced`` or ``hybrid``.
        bottleneck: the bottleneck width C of the adapters.
        layers: None for every block, a number n for the first n blocks, or the indices of blocks.
        spectral: the form of the spectral filter on the tower's patch grid; None for a gain per channel.
        start: ``published`` for random initial values as published, ``identity`` for adapters that change nothing
            until they are trained; see :class:`ht_kernels.HTAdapter`.

    Returns:
        ``clip_model``.

    Raises:
        InputError: the vision tower is not a vision transformer.
        ValueError: the variant, form or start is unknown, or a block does not exist or already has an adapter.
    """
    tower = find_tower(clip_model)
    chosen = _choose(layers, len(tower.blocks))
    taken = [i for i in chosen if hasattr(tower.blocks[i], "mona")]
    if taken:
        raise ValueError(f"blocks {taken} already have an adapter; inject into a model without adapters")
    like = tower.patch_embedding.weight
    # In a half-precision tower, adapters keep their parameters, and compute, in float32.
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    monas = [_new(tower, variant, bottleneck, spectral, start).to(like.device, dtype) for _ in chosen]
    clip_model.requires_grad_(False)
    for i, mona in zip(chosen, monas, strict=True):
        block: Any = tower.blocks[i]
        block.mona = mona.train(block.training)
        block.register_forward_hook(adapt_output)
    return clip_model


def adapters(tower: Tower) -> dict[int, HTAdapter]:
    """The adapters of a tower by block index."""
    found: dict[int, HTAdapter] = {}
    for i, block in enumerate(tower.blocks):
        mona = getattr(block, "mona", None)
        if mona is not None:
            found[i] = getattr(mona, "clip_mona", mona)
    return found


def resize(tower: Tower, size: int) -> None:
    """Make a tower and its adapters take square images of another size, in place; see :meth:`Tower.resize`.

    Raises:
        InputError: ``size`` is not a multiple of the patch size, or an adapter's filter is bound to the patch grid.
    """
    if tower.image_size == (size, size):
        return
    bound = {a.spectral for a in adapters(tower).values() if getattr(a, "spectral", None) in ("full", "shared")}
    if bound:
        raise InputError(
            f"the adapters have a {bound.pop()} spectral filter, made for a patch grid of {tower.grid[0]}x"
            f"{tower.grid[1]}, so images of {size}x{size} pixels cannot be used; a radial filter has no fixed grid"
        )
    tower.resize(size)
    for block in tower.blocks:
        mona: Any = getattr(block, "mona", None)
        if hasattr(mona, "grid"):
            mona.grid = tower.grid


def adapt_output(block: Any, args: Any, output: Tensor) -> Tensor:
    # This hook is a module-level function so that models with adapters can be copied, pickled and compiled.
    adapted: Tensor = block.mona(output)
    return adapted


def _new(
    tower: Tower, variant: str, bottleneck: int, spectral: str | None, start: str
) -> BatchFirstMona | SequenceFirstMona:
    kind = tower.dim, bottleneck, variant, spectral
    if tower.batch_first:
        return BatchFirstMona(HTAdapter(*kind, grid=tower.grid, start=start), tower.grid, tower.prefix_tokens)
    return SequenceFirstMona(*kind, grid=tower.grid, prefix_tokens=tower.prefix_tokens, start=start)


def _choose(layers: int | Iterable[int] | None, depth: int) -> list[int]:
    if layers is None:
        return list(range(depth))
    chosen = list(range(layers)) if isinstance(layers, int) else sorted(set(layers))
    outside = [i for i in chosen if not 0 <= i < depth]
    if outside:
        raise ValueError(f"layers names blocks {outside}, but the tower has blocks 0 to {depth - 1}")
    return chosen
