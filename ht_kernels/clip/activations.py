"""The scale of what flows through a tower: its residual stream, and what the adapters add to it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .htclip import HTCLIP
from .injection import adapters


class Scale(NamedTuple):
    """Root mean squares behind one block, over images and tokens.

    Attributes:
        stream: of the block's output, over all channels.
        largest: of the largest channel.
        added: of what the adapter adds, over all channels; None if the block has no adapter.
    """

    stream: float
    largest: float
    added: float | None


@torch.no_grad()
def activation_scales(model: HTCLIP, images: Tensor) -> dict[int, Scale]:
    """The scale behind each block that the model runs, before the adapter.

    Where ``added`` is not small against ``stream``, an untrained adapter changes what the next block gets: start new
    adapters as the identity there.

    Args:
        model: the model, in evaluation mode.
        images: images as the model takes them.
    """
    tower, found = model.tower, adapters(model.tower)
    scales: dict[int, Scale] = {}

    def measure(block: int, output: Tensor, adapted: Tensor | None) -> None:
        x = tower.tokens(output).float()
        squares = x.square().flatten(0, 1).mean(0)
        added = None if adapted is None else _root_mean_square(adapted.float() - output.float())
        scales[block] = Scale(float(squares.mean().sqrt()), float(squares.max().sqrt()), added)

    handles = []
    for i, block in enumerate(tower.blocks[: model.depth]):
        mona: Any = getattr(block, "mona", None)
        if i in found:
            handles.append(mona.register_forward_hook(lambda _, given, out, i=i: measure(i, given[0], out)))
        else:
            handles.append(block.register_forward_hook(lambda _, __, out, i=i: measure(i, out, None)))
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return scales


def _root_mean_square(x: Tensor) -> float:
    return float(x.square().mean().sqrt())
