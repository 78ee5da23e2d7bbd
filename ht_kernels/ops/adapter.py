"""The adapter: straight to a backend where nobody watches, else through the operator."""

from __future__ import annotations

import torch
from torch import Tensor

from ht_kernels.backends import reference
from ht_kernels.backends.call import Case, Layout, Training
from ht_kernels.backends.torch_private import is_watched
from ht_kernels.errors import BackendError
from ht_kernels.folding import FoldedAdapter, on_grid

from . import dispatch, operators


def adapter_again(
    x: Tensor, folded: FoldedAdapter, height: int, width: int, prefix_tokens: int, eps: float
) -> Tensor | None:
    """The adapter without gradients by what served the last call like this one; None where there was none, where
    somebody watches, or where it fails. A call like this has the same weights and the shape, dtype and device of x, so
    its checks and its choice of a backend need not be made again.
    """
    kept = folded.prepared
    if kept is None or is_watched(x):
        return None
    found = kept.recall(x, height, width, prefix_tokens, eps, dispatch.choices.count)
    if found is None or not kept.is_current():
        return None
    backend, made, layout = found
    autocast = False
    if x.is_cuda:
        if torch.cuda.is_current_stream_capturing():  # what is kept may be freed before a replay
            return None
        autocast = torch.is_autocast_enabled("cuda")
    try:
        out: Tensor = backend.infer(made, x, layout, autocast)
    except (BackendError, torch.OutOfMemoryError):  # met again in adapter(), which reports it and falls back
        return None
    return out


def adapter(
    x: Tensor, folded: FoldedAdapter, layout: Layout, keep: Tensor | None, dropout: float, asked: str | None
) -> Tensor:
    """The adapter; arguments as in :func:`ht_kernels.functional.ht_adapter`, checked."""
    needs_grad = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *folded))
    train = needs_grad or keep is not None or dropout > 0
    bottleneck, spectral = folded.up_weight.shape[1], folded.mask is not None
    case = Case(
        x.device, x.dtype, x.shape[2], bottleneck, layout.grid, layout.prefix_tokens, train, spectral, keep is not None
    )
    if train:
        if folded.down_weight.dtype != folded.down_bias.dtype:
            folded = reference.prepare(folded, x.dtype, layout.grid)
        if torch.compiler.is_compiling():
            return operators.train(dispatch.choose(case, asked), x, folded, layout, keep, dropout)
        return dispatch.run(case, asked, lambda name: operators.train(name, x, folded, layout, keep, dropout))
    autocast = x.is_cuda and torch.is_autocast_enabled("cuda")
    if not is_watched(x):
        return dispatch.infer(case, asked, x, folded, layout, autocast)
    name = dispatch.choose(case, asked)
    folded = on_grid(folded, layout.grid)
    if name == "reference":  # whoever watches sees what it is made of
        return reference.infer(reference.prepare(folded, x.dtype, layout.grid), x, layout, autocast)
    training = Training(None, None, 0.0, x.dtype)
    return operators.adapter(name, x, folded, training, layout, autocast, train=False, forced=asked is not None)
