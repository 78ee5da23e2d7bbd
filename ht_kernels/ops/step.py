"""A training step of an adapter on the CPU: folding and the adapter as one node of autograd.

In Python, a step of two nodes takes as long as its kernels do for an image: some sixty small tensors for the results of
the fold, their gradients and the operator between them. Here the results lie in one tensor, and their gradients in the
kernels' memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ht_kernels import folding
from ht_kernels.backends import cpu, torch_private
from ht_kernels.backends.call import Layout, Training
from ht_kernels.folding import FoldedAdapter, FoldParts, FoldResults, Unfolded, mask_on_grid

from . import fold, operators, saved

_OTHERS = tuple(name for name in FoldedAdapter._fields if name not in ("down_weight", *FoldResults._fields))
"""The folded weights that are published ones."""
_PARTS = len(FoldParts._fields)


def takes(x: Tensor, weights: Unfolded) -> bool:
    """Whether :func:`adapter` may run with these arguments, if the CPU backend is chosen.

    The shape of ``x`` and that of a mask are not looked at.
    """
    return (
        not torch_private.is_watched(x)
        and x.is_cpu
        and x.dtype in (torch.float32, torch.bfloat16)
        and fold.is_for_core(weights.parts)
        and all(t is None or fold.is_plain(t) for t in weights.others.values())
        and _fit(weights)
    )


def _fit(weights: Unfolded) -> bool:
    """Whether the shapes of the other weights belong to those of the parts."""
    dim, channels, hidden, _ = fold.sizes(weights.parts)
    shapes: dict[str, tuple[int, ...] | None] = {
        "skip_gain": (dim,),
        "hidden_bias": (hidden,) if hidden else None,
        "score_weight": (3, hidden) if hidden else None,
        "score_bias": (3,) if hidden else None,
        "mix_bias": (channels,),
        "up_weight": (dim, channels),
        "up_bias": (dim,),
    }
    found = {name: None if t is None else t.shape for name, t in weights.others.items() if name != "mask"}
    return found == shapes


def adapter(x: Tensor, weights: Unfolded, layout: Layout, training: Training) -> Tensor:
    """Compute the adapter of ``x`` (B, N, D), with gradients for ``x`` and for the weights."""
    others = dict(weights.others)
    if others["mask"] is not None:
        others["mask"] = mask_on_grid(others["mask"], layout.grid).contiguous()
    given = (*weights.parts, *(others[name] for name in _OTHERS))
    out: Tensor = _Step.apply(x, layout, training, *given)  # type: ignore[no-untyped-call]
    return out


def _sort(weights: tuple[Tensor | None, ...]) -> tuple[FoldParts, FoldedAdapter]:
    """The parts of a fold, and the folded weights with None for what comes of the parts."""
    parts = FoldParts(*weights[:_PARTS])  # type: ignore[arg-type]
    others: Any = dict(zip(_OTHERS, weights[_PARTS:], strict=True))
    missing: Any = dict.fromkeys(FoldResults._fields)
    return parts, FoldedAdapter(down_weight=parts.down_weight, **missing, **others)


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: Layout, training: Training, *weights: Tensor | None) -> Tensor:
        parts, others = _sort(weights)
        out, state = cpu.fold_and_forward(fold.sizes(parts), parts, others, x, layout, training)
        ctx.layout, ctx.constants = layout, training[2:]
        ctx.set_materialize_grads(False)
        saved.save(ctx, x, training.keep, state, *weights)
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad
        if grad_out is None:
            return (None,) * len(needed)
        x, keep, state, *rest = saved.give_back(ctx)
        weights = fold.contiguous(rest)
        if torch.is_grad_enabled() or torch_private.is_watched(grad_out):
            training = Training(keep, None, *ctx.constants)
            found = _observed_backward(grad_out, x, training, state, weights, ctx.layout, needed[0])
        else:
            parts, others = _sort(weights)
            sizes = fold.sizes(parts)
            found = cpu.fold_and_backward(sizes, parts, others, grad_out, x, ctx.layout, keep, state, needed[0])
        grads = found[0], None, None, *found[1:]
        return tuple(g if n else None for g, n in zip(grads, needed, strict=True))


def _observed_backward(
    grad_out: Tensor,
    x: Tensor,
    training: Training,
    state: Tensor,
    weights: tuple[Tensor | None, ...],
    layout: Layout,
    needs_x: bool,
) -> tuple[Tensor | None, ...]:
    """The gradients as operators, for a second derivative and for whoever observes operators."""
    parts, others = _sort(weights)
    masked = others.mask is not None
    with torch.no_grad():
        _, results = folding.combine(parts, masked)
    folded = others._replace(**results._asdict())
    kept = cpu.unpack_state(state, x, folded)
    grad_x, *found = operators.backward("cpu", grad_out, x, folded, kept, training, layout, needs_x)
    grads = FoldedAdapter(*found)  # type: ignore[arg-type]
    result_grads = (getattr(grads, name) for name in FoldResults._fields)
    part_grads = fold.torch_gradients(parts, masked, (grads.down_weight, *result_grads))
    return grad_x, *part_grads, *(getattr(grads, name) for name in _OTHERS)
