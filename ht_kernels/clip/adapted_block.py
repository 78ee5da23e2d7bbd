"""Blocks of the published code without closures, so that copies of a model use their own adapters.

The published code replaces the ``forward`` of a block by a function that holds the block. A copy of the model then has
blocks that call those of the original: an average of weights, or a model from a pickle, runs on adapters that are not
its own. ``accelerate`` puts a method in the place of the function.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ht_kernels.errors import reason

from .in_place import Changed, change, quiet, relative_error, seed
from .towers import Tower

_TOLERANCE = 1e-3
"""The allowed relative L2 error between two runs of the same modules, which differ at most by how kernels round."""


class AdaptedBlock(Changed):
    """A block and its adapter ``mona``: the block's own class, with this forward before its own.

    ``ht_arguments`` are what the adapter is called with behind the tokens: the patch grid, in published models.
    """

    mona: nn.Module
    ht_arguments: tuple[Any, ...]

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        """Run the block on tokens, and then its adapter."""
        adapted: Tensor = self.mona(super().forward(x, *args, **options), *self.ht_arguments)
        return adapted


def untie(tower: Tower) -> dict[int, str]:
    """Put :class:`AdaptedBlock` in the place of the replaced forwards of a tower's blocks, in place.

    A block is tried out on random tokens first, and stays as it is if its forward does something else than to run the
    block and then the adapter.

    Returns:
        For each block that stays as it is, by index, the reason.
    """
    left: dict[int, str] = {}
    for i, block in enumerate(tower.blocks):
        mona = getattr(block, "mona", None)
        if "forward" not in vars(block) or not isinstance(mona, nn.Module):
            continue
        arguments = "its mona has a replaced forward" if "forward" in vars(mona) else _arguments(block, tower)
        if isinstance(arguments, str):
            left[i] = arguments
        else:
            del block.forward
            vars(block)["ht_arguments"] = arguments
            change(block, AdaptedBlock)
    return left


def _arguments(block: Any, tower: Tower) -> tuple[Any, ...] | str:
    """What a replaced forward passes to the adapter behind the tokens; or the reason why the forward must stay."""
    like = tower.patch_embedding.weight
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, tower.prefix_tokens + tower.grid[0] * tower.grid[1], tower.dim, generator=generator)
    x = x.to(like.device, like.dtype)
    x = x if tower.batch_first else x.transpose(0, 1)
    calls: list[tuple[Any, ...]] = []

    def record(*given: Any) -> Any:
        calls.append(given)
        return type(block.mona).forward(block.mona, *given)

    same = True
    try:
        for training in False, True:  # a forward may differ in training alone, as one with stochastic depth does
            calls.clear()
            with quiet(block, training), torch.no_grad():
                vars(block.mona)["forward"] = record
                seed(like.device)
                replaced = block.forward(x)
                if len(calls) != 1:
                    return (
                        "its forward calls the adapter of another block, as in a copy: copy the model after accelerate"
                    )
                tokens, *arguments = calls[0]
                seed(like.device)
                own = type(block).forward(block, x)
                adapted = block.mona(own, *arguments)
            same = same and max(relative_error(own, tokens), relative_error(adapted, replaced)) <= _TOLERANCE
    except Exception as error:
        return f"its forward could not be tried out ({type(error).__name__}: {reason(error)})"
    return tuple(arguments) if same else "its forward does something else than to run the block and then its adapter"
