"""Folding in a training step on the CPU: one compiled function, and one for its gradient.

As some thirty operators of torch with their gradients, folding an adapter takes longer than its kernels do for an
image.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ht_kernels import folding
from ht_kernels.backends import core, torch_private
from ht_kernels.folding import FoldedAdapter, FoldParts, FoldResults

from . import dispatch, saved


def fold_adapter(adapter: nn.Module) -> FoldedAdapter:
    """:func:`ht_kernels.folding.fold_adapter`, by the compiled core where it can."""
    return folding.fold_adapter(adapter, combine)


def combine(parts: FoldParts, masked: bool) -> tuple[Tensor, FoldResults]:
    """:func:`ht_kernels.folding.combine`, by the compiled core where it can."""
    if not is_for_core(parts):
        return folding.combine(parts, masked)
    down_weight, *results = _Combine.apply(masked, *parts)  # type: ignore[no-untyped-call]
    return down_weight, FoldResults(*results)


def combine_in_core(parts: FoldParts, masked: bool) -> FoldResults:
    """What :func:`ht_kernels.folding.combine` gives, without gradients."""
    numbers = dim, channels, hidden, _ = sizes(parts)
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
    core.module.fold(numbers, masked, parts, results)
    return results


def sizes(parts: FoldParts) -> tuple[int, int, int, int]:
    """The sizes of a fold: D, C, C // 4 or 0 without a noise estimator, and the number of gains."""
    channels, dim = parts.down_weight.shape
    hidden = 0 if parts.hidden_weight is None else parts.hidden_weight.shape[0]
    return dim, channels, hidden, 0 if parts.gain is None else parts.gain.shape[0]


def is_for_core(parts: FoldParts) -> bool:
    """Whether the compiled core takes these weights, and gradients make it worth while."""
    return (
        torch.is_grad_enabled()
        and not core.missing
        and dispatch.asked_for() in (None, "cpu")
        and all(t is None or is_plain(t) for t in parts)
        and _fit(parts)
        and not torch_private.is_watched(parts.down_weight.detach())
    )


def _fit(parts: FoldParts) -> bool:
    """Whether the shapes are the published ones; for others torch's operators say what is wrong."""
    dim, channels, hidden, _ = sizes(parts)
    vectors = parts.down_bias, parts.bias3, parts.bias5, parts.bias7
    kernels = zip((parts.kernel3, parts.kernel5, parts.kernel7), (3, 5, 7), strict=True)
    return (
        all(t.shape == (dim,) for t in (parts.norm_weight, parts.norm_bias, parts.gamma))
        and all(t.shape == (channels,) for t in vectors)
        and all(kernel.shape == (channels, 1, side, side) for kernel, side in kernels)
        and (parts.hidden_weight is None or parts.hidden_weight.shape == (hidden, channels, 1, 1))
        and parts.projector.shape == (channels, channels, 1, 1)
        and (parts.gain is None or parts.gain.shape in ((channels,), (1,)))
    )


def is_plain(t: Tensor) -> bool:
    """Whether the compiled core can read a weight where it lies."""
    return type(t) in (Tensor, nn.Parameter) and t.dtype is torch.float32 and t.is_cpu and t.is_contiguous()


def contiguous(tensors: Iterable[Tensor | None]) -> tuple[Tensor | None, ...]:
    """The tensors as the compiled core reads weights and their gradients."""
    return tuple(None if t is None else t.contiguous() for t in tensors)


class _Combine(torch.autograd.Function):
    """:func:`ht_kernels.folding.combine`. Its second derivative is left to torch."""

    @staticmethod
    def forward(ctx: Any, masked: bool, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        parts = FoldParts(*given)  # type: ignore[arg-type]
        ctx.masked = masked
        saved.save(ctx, *parts)
        return parts.down_weight.detach(), *combine_in_core(parts, masked)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        parts = FoldParts(*contiguous(saved.give_back(ctx)))  # type: ignore[arg-type]
        if torch.is_grad_enabled():  # with create_graph
            return None, *torch_gradients(parts, ctx.masked, grads)
        down_weight, *results = contiguous(grads)
        assert down_weight is not None, "autograd gives zeros where nothing came back"
        found = FoldParts(*(None if t is None else torch.empty_like(t) for t in parts))  # type: ignore[arg-type]
        core.module.fold_backward(
            sizes(parts),
            ctx.masked,
            parts,
            down_weight.data_ptr(),
            FoldResults(*results),  # type: ignore[arg-type]
            found,
        )
        return None, *found


def torch_gradients(parts: FoldParts, masked: bool, grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """The gradients of the parts from those of ``down_weight`` and the results, by operators of torch.

    Autograd can differentiate them again where gradients are enabled. They are taken with respect to aliases, because a
    part may be computed from another, or be the same.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        aliases = FoldParts(*(None if t is None else t.view_as(t) for t in parts))  # type: ignore[arg-type]
        down_weight, results = folding.combine(aliases, masked)
    pairs = [(t, g) for t, g in zip((down_weight, *results), grads, strict=True) if t is not None and t.requires_grad]
    inputs = [t for t in aliases if t is not None and t.requires_grad]
    if not pairs:
        return tuple(None for _ in parts)
    outputs, output_grads = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(outputs, inputs, output_grads, create_graph=again, allow_unused=True))
    return tuple(next(found) if t is not None and t.requires_grad else None for t in aliases)
