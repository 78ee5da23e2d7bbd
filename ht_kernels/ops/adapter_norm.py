"""The adapter with the LayerNorm of its result, for inference: what the next block of a transformer begins with.

Where the backend writes both at once, the call is the torch operator ``ht_kernels::adapter_and_norm`` for torch.compile
and torch.export. Elsewhere it is the adapter, and torch's LayerNorm behind it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ht_kernels.backends.call import Case, Layout
from ht_kernels.backends.torch_private import is_watched
from ht_kernels.folding import FoldedAdapter, on_grid

from . import dispatch
from .adapter import adapter
from .operators import LAYOUT, WEIGHTS
from .prepared import compute, row_norm, weights_dtype, writes_norm

_COUNT = len(FoldedAdapter._fields)

_library: Any = torch.library.Library("ht_kernels", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(
    f"adapter_and_norm(Tensor x, {WEIGHTS}, {LAYOUT}, float norm_eps, bool autocast, str? asked)"
    " -> (Tensor out, Tensor normed)"
)


def adapter_and_norm(
    x: Tensor, folded: FoldedAdapter, layout: Layout, norm_eps: float, asked: str | None
) -> tuple[Tensor, Tensor]:
    """Compute both. The arguments are those of :func:`ht_kernels.functional.ht_adapter_and_norm`, already checked.

    ``asked`` is the name of the backend that the caller or the process asked for, or None.
    """
    needs_grad = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *folded))
    case = Case.of(x, folded.up_weight, folded.mask, layout, needs_grad)
    watched, autocast = is_watched(x), torch.is_autocast_enabled("cuda" if x.is_cuda else "cpu")
    if needs_grad or (watched and not writes_norm(dispatch.BACKENDS[dispatch.choose(case, asked)])):
        out = adapter(x, folded, layout, None, 0.0, asked)
        return out, row_norm(out, norm_eps)
    both: tuple[Tensor, Tensor]
    if watched:
        weights = on_grid(folded, layout.grid)
        both = torch.ops.ht_kernels.adapter_and_norm.default(x, *weights, *layout, norm_eps, autocast, asked)
    else:
        both = dispatch.infer(case, asked, x, folded, layout, autocast, norm_eps)
    return both


def _forward(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    folded, layout, (norm_eps, autocast, asked) = FoldedAdapter(*rest[:_COUNT]), Layout(*rest[_COUNT:-3]), rest[-3:]

    def attempt(name: str) -> tuple[Tensor, Tensor]:
        backend = dispatch.BACKENDS[name]
        made = backend.prepare(folded, weights_dtype(x, autocast), layout.grid)
        both: tuple[Tensor, Tensor] = compute(backend, made, x, layout, autocast, norm_eps)
        return both

    return dispatch.run(Case.of(x, folded.up_weight, folded.mask, layout, needs_grad=False), asked, attempt)


def _empty(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x, memory_format=torch.contiguous_format)


for _device in ("CUDA", "CPU"):
    _library.impl("adapter_and_norm", _forward, _device)
torch.library.register_fake("ht_kernels::adapter_and_norm", _empty, lib=_library)
