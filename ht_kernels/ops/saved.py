"""Tensors from a forward pass to its backward pass, for kernels that trust their shapes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def save(ctx: Any, *tensors: Tensor | None) -> None:
    """Save tensors for the backward pass, where :func:`give_back` finds them."""
    ctx.save_for_backward(*tensors)
    ctx.kinds = tuple(map(_kind, tensors))


def give_back(ctx: Any) -> tuple[Any, ...]:
    """The tensors that :func:`save` was given, for a core that trusts their shapes. Their strides may be others.

    Raises:
        RuntimeError: one has another shape, dtype or device than in the forward pass. Autograd does not notice that
            after an assignment to ``parameter.data``, and hooks of saved tensors may give back what they like.
    """
    tensors: tuple[Tensor | None, ...] = ctx.saved_tensors
    for kind, t in zip(ctx.kinds, tensors, strict=True):
        if _kind(t) != kind:
            raise RuntimeError(
                f"a tensor that the backward pass needs was {kind} in the forward pass and is {_kind(t)} now; change "
                "parameters behind the backward pass, and let hooks of saved tensors give back what they were given"
            )
    return tensors


def _kind(t: Tensor | None) -> tuple[tuple[int, ...], torch.dtype, torch.device] | None:
    return None if t is None else (t.shape, t.dtype, t.device)
