"""Blocks of the published code without closures, so that copies of a model use their own adapters.

The published code replaces the ``forward`` of a block by a function that holds the block. A copy of the model then has
blocks that call those of the original: an average of weights, or a model from a pickle, runs on adapters that are not
its own. ``accelerate`` puts a method in the place of the function.

A function around that function, for activation checkpointing for example, may have an effect that no result shows. So
only a function that can do nothing but call the block and its adapter is replaced; :func:`owner` tells.
"""

from __future__ import annotations

import dis
import functools
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from ht_kernels.errors import reason

from .in_place import Changed, change, quiet, relative_error, seed
from .towers import Tower

_TOLERANCE = 1e-3
"""The allowed relative L2 error between two runs of the same modules, which differ at most by how kernels round."""


_ATTRIBUTES = {"mona", "forward", "transpose"}
"""What a published forward may look up in the values that it holds."""

_STEPS = (
    *("RESUME", "NOP", "COPY_FREE_VARS", "LOAD_", "STORE_FAST", "PUSH_NULL", "PRECALL", "KW_NAMES", "CALL"),
    *("BUILD_", "DICT_MERGE", "LIST_EXTEND", "LIST_TO_TUPLE", "RETURN_VALUE"),
)
"""How the names of the instructions of a published forward begin, in Python 3.10 to 3.14.

They read values, call, collect arguments and set local variables. No other instruction is taken, whether it writes
elsewhere, branches, or computes, as an operator may do in place.
"""

_STAYS = "so it stays, and copies of the block go on calling this one"


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

    A block stays as it is if its forward is no published one, which :func:`owner` tells, or if a trial on random tokens
    finds that the forward does something else than to run the block and then the adapter.

    Returns:
        For each block that stays as it is, by index, the reason.
    """
    left: dict[int, str] = {}
    for i, block in enumerate(tower.blocks):
        mona = getattr(block, "mona", None)
        if "forward" not in vars(block) or not isinstance(mona, nn.Module):
            continue
        arguments = _why_it_stays(block) or _arguments(block, tower)
        if isinstance(arguments, str):
            left[i] = arguments
        else:
            del block.forward
            vars(block)["ht_arguments"] = arguments
            change(block, AdaptedBlock)
    return left


def owner(forward: Any) -> nn.Module | None:
    """The block that a forward holds, if the forward can call nothing but this block and its adapter; else None.

    The forward of published code is a function of that kind: it names no function, the values of its closure are the
    block, the forward of the block's class, and the patch grid, and it sets nothing but its own variables.
    """
    given: list[Any] = []
    if isinstance(forward, functools.partial):
        given, forward = [*forward.args, *forward.keywords.values()], forward.func
    if not isinstance(forward, FunctionType):
        return None
    code = forward.__code__
    steps = list(dis.get_instructions(code))
    if not all(step.opname.startswith(_STEPS) for step in steps):
        return None
    named = {step.argval for step in steps if step.opname == "LOAD_GLOBAL"}
    calls_others = not named <= {"type"} or "type" in forward.__globals__ or set(code.co_names) - named - _ATTRIBUTES
    if calls_others or any(isinstance(constant, CodeType) for constant in code.co_consts):
        return None
    try:
        given += [cell.cell_contents for cell in forward.__closure__ or ()]
    except ValueError:  # a cell without a value yet
        return None
    given += [*(forward.__defaults__ or ()), *(forward.__kwdefaults__ or {}).values()]
    held = [value for value in given if not _is_plain(value)]
    blocks = {id(block): block for value in held if (block := _block_of(value)) is not None}
    if len(blocks) != 1 or any(_block_of(value) is None for value in held):
        return None
    return next(iter(blocks.values()))


def _block_of(value: Any) -> nn.Module | None:
    """A block itself, or the block of which a value is the forward of its class; None for any other value."""
    if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
        forwards = (vars(kind).get("forward") for kind in type(value.__self__).__mro__)
        return value.__self__ if any(value.__func__ is forward for forward in forwards) else None
    return value if isinstance(value, nn.Module) and hasattr(value, "mona") else None


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _why_it_stays(block: Any) -> str | None:
    """The reason why the replaced forward of a block must stay, as far as can be told without calling it."""
    holder = owner(vars(block)["forward"])
    if "forward" in vars(block.mona):
        return "its mona has a replaced forward"
    if holder is None:
        return f"its forward was replaced by more than the published code does, a wrapper for example, {_STAYS}"
    if holder is not block:
        return "its forward calls the adapter of another block, as in a copy: copy the model after accelerate"
    return None


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
                    return f"its forward does not call its adapter once, {_STAYS}"
                tokens, *arguments = calls[0]
                seed(like.device)
                own = type(block).forward(block, x)
                adapted = block.mona(own, *arguments)
            same = same and max(relative_error(own, tokens), relative_error(adapted, replaced)) <= _TOLERANCE
    except Exception as error:
        return f"its forward could not be tried out ({type(error).__name__}: {reason(error)})"
    return tuple(arguments) if same else f"its forward does more than to run the block and then its adapter, {_STAYS}"
