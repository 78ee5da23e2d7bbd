"""The adapter. A call goes straight to a backend, unless something observes operators or gradients are needed.

In these cases the call goes through the torch operator of :mod:`ht_kernels.ops.operators`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ht_kernels import folding
from ht_kernels.backends import reference
from ht_kernels.backends.call import Case, Layout, Training
from ht_kernels.backends.torch_private import is_watched
from ht_kernels.errors import BackendError
from ht_kernels.folding import FoldedAdapter, Unfolded, cast_matrices, on_grid

from . import dispatch, fold, operators, step
from .prepared import compute, is_captured, weights_dtype


def again(
    x: Tensor,
    folded: FoldedAdapter,
    height: int,
    width: int,
    prefix_tokens: int,
    eps: float,
    norm_eps: float | None = None,
) -> Any:
    """Compute the adapter without gradients in the same way as an earlier call of the same kind: out, or with
    ``norm_eps`` out and its LayerNorm.

    Calls of the same kind have the same weights and layout, and tokens of the same shape, dtype and device. So neither
    the checks nor the choice of a backend need to be repeated.

    Returns None if there was no such call, if the weights have changed, if something observes operators, if a CUDA
    graph is being captured, or if the backend fails.
    """
    kept = folded.prepared
    if kept is None or is_watched(x):
        return None
    autocast = torch.is_autocast_enabled("cuda" if x.is_cuda else "cpu")
    dtype = weights_dtype(x, autocast)
    found = kept.recall(x, dtype, height, width, prefix_tokens, eps, dispatch.choices.count)
    if found is None or not kept.is_current() or is_captured(x):
        return None
    backend, made, layout = found
    try:
        return compute(backend, made, x, layout, autocast, norm_eps)
    except (BackendError, torch.OutOfMemoryError):  # the caller repeats the call and handles the error
        return None


def adapter(
    x: Tensor, folded: FoldedAdapter, layout: Layout, keep: Tensor | None, dropout: float, asked: str | None
) -> Tensor:
    """Compute the adapter. The arguments are those of :func:`ht_kernels.functional.ht_adapter`, already checked.

    ``asked`` is the name of the backend that the caller or the process asked for, or None.
    """
    needs_grad = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *folded))
    train = needs_grad or keep is not None or dropout > 0
    case = Case.of(x, folded.up_weight, folded.mask, layout, train, keep is not None)
    if train:
        wide = folded
        if folded.down_weight.dtype != folded.down_bias.dtype:
            wide = cast_matrices(folded, folded.down_bias.dtype)
        if torch.compiler.is_compiling():
            return operators.train(dispatch.choose(case, asked), x, wide, layout, keep, dropout)
        folded.prepared = None  # training may write without a trace, as fused optimizers do
        return dispatch.run(case, asked, lambda name: operators.train(name, x, wide, layout, keep, dropout))
    autocast = torch.is_autocast_enabled("cuda" if x.is_cuda else "cpu")
    if not is_watched(x):
        out: Tensor = dispatch.infer(case, asked, x, folded, layout, autocast)
        return out
    name = dispatch.choose(case, asked)  # the operator chooses again when it runs; this tells whether to call it
    folded = on_grid(folded, layout.grid)
    if name == "reference":  # plain torch: observers see its own operators
        return reference.infer(reference.prepare(folded, x.dtype, layout.grid), x, layout, autocast)
    training = Training(None, None, 0.0, x.dtype)
    return operators.adapter(name, x, folded, training, layout, autocast, train=False, forced=asked is not None)


def adapter_unfolded(x: Tensor, weights: Unfolded, layout: Layout, dropout: float) -> Tensor:
    """Fold ``weights``, and compute the adapter with gradients. ``step.takes(x, weights)`` holds."""
    up_weight = weights.others["up_weight"]
    assert up_weight is not None, "every adapter has this weight"
    case = Case.of(x, up_weight, weights.others["mask"], layout, needs_grad=True)

    def attempt(name: str) -> Tensor:
        if name == "cpu":
            drawn = operators.draw(name, x, up_weight.shape[1], torch.float32, dropout)
            return step.adapter(x, weights, layout, drawn)
        return operators.train(name, x, folding.fold(weights, fold.combine), layout, None, dropout)

    return dispatch.run(case, dispatch.asked_for(), attempt)
