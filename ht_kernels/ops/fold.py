"""Folding in a training step on the CPU: one compiled function, and one for its gradient.

As some thirty operators of torch with their gradients, folding an adapter takes longer than its kernels do for an
image.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ht_kernels import folding
from ht_kernels.backends import core, torch_private
from ht_kernels.folding import FoldedAdapter, FoldParts, FoldResults

from . import dispatch


def fold_adapter(adapter: nn.Module) -> FoldedAdapter:
    """:func:`ht_kernels.folding.fold_adapter`, by the compiled core where it can."""
    return folding.fold_adapter(adapter, _combine)


def _combine(parts: FoldParts, masked: bool) -> tuple[Tensor, FoldResults]:
    if not _is_for_core(parts):
        return folding.combine(parts, masked)
    down_weight, *results = _Combine.apply(masked, *parts)  # type: ignore[no-untyped-call]
    return down_weight, FoldResults(*results)


def _is_for_core(parts: FoldParts) -> bool:
    """Whether the compiled core takes these weights, and gradients make it worth while."""
    return (
        torch.is_grad_enabled()
        and not core.missing
        and dispatch.asked_for() in (None, "cpu")
        and all(t is None or _is_plain(t) for t in parts)
        and not torch_private.is_watched(parts.down_weight.detach())
    )


def _is_plain(t: Tensor) -> bool:
    return (
        type(t) in (Tensor, nn.Parameter) and t.dtype is torch.float32 and t.device.type == "cpu" and t.is_contiguous()
    )


class _Combine(torch.autograd.Function):
    """:func:`ht_kernels.folding.combine`. Its second derivative is left to torch."""

    @staticmethod
    def forward(ctx: Any, masked: bool, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        parts = FoldParts(*given)  # type: ignore[arg-type]
        channels, dim = parts.down_weight.shape
        hidden = 0 if parts.hidden_weight is None else parts.hidden_weight.shape[0]
        gains = 0 if parts.gain is None else parts.gain.shape[0]
        scales = 3 if hidden else 1
        new = parts.down_weight.new_empty
        results = FoldResults(
            norm_gain=new(dim),
            down_bias=new(channels),
            scale_kernels=new(scales, channels, folding.KERNEL_SIZE, folding.KERNEL_SIZE),
            scale_bias=new(scales, channels),
            hidden_weight=new(hidden, channels) if hidden else None,
            mix_weight=new(channels, channels),
        )
        ctx.sizes, ctx.masked = (dim, channels, hidden, gains), masked
        core.module.fold(ctx.sizes, masked, parts, results)
        ctx.save_for_backward(*parts)
        return parts.down_weight.detach(), *results

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        parts = FoldParts(*ctx.saved_tensors)
        if torch.is_grad_enabled():  # with create_graph
            return None, *_torch_gradients(parts, ctx.masked, grads)
        down_weight, *results = (None if t is None else t.contiguous() for t in grads)
        assert down_weight is not None, "autograd gives zeros where nothing came back"
        found = FoldParts(*(None if t is None else torch.empty_like(t) for t in parts))  # type: ignore[arg-type]
        core.module.fold_backward(
            ctx.sizes,
            ctx.masked,
            parts,
            down_weight.data_ptr(),
            FoldResults(*results),  # type: ignore[arg-type]
            found,
        )
        return None, *found


def _torch_gradients(parts: FoldParts, masked: bool, grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """The gradients of the parts, as operators that autograd can differentiate again.

    They are taken with respect to aliases, because a part may be computed from another, or be the same.
    """
    aliases = FoldParts(*(None if t is None else t.view_as(t) for t in parts))  # type: ignore[arg-type]
    down_weight, results = folding.combine(aliases, masked)
    pairs = [(t, g) for t, g in zip((down_weight, *results), grads, strict=True) if t is not None and t.requires_grad]
    inputs = [t for t in aliases if t is not None and t.requires_grad]
    if not pairs:
        return tuple(None for _ in parts)
    outputs, output_grads = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(outputs, inputs, output_grads, create_graph=True, allow_unused=True))
    return tuple(next(found) if t is not None and t.requires_grad else None for t in aliases)
