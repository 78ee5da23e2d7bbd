"""The compiled CPU backend: C++ kernels behind ``ht_kernels._C``, forward and backward, float32 and bfloat16."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from . import Case

_C: ModuleType | None = None
_missing = ""
try:
    # After torch: the kernels then find its OpenMP library loaded and share its threads.
    _C = importlib.import_module("ht_kernels._C")
except ImportError as error:
    _missing = f"the compiled core ht_kernels._C could not be imported ({error})"

_SMALL = 1 << 20
"""Multiply-adds below which waking a second thread costs more than it saves."""


def can_run(case: Case) -> str | None:
    """None when this backend can run ``case``, else the reason."""
    if _C is None:
        return _missing
    if case.device.type != "cpu":
        return f"it runs on the CPU, and the tensors are on {case.device}"
    if case.dtype not in (torch.float32, torch.bfloat16):
        return f"it computes float32 and bfloat16, and x is {case.dtype}"
    if torch._C._are_functorch_transforms_active():
        return "torch.func does not see through its operators"
    return None


def forward(
    x: Tensor,
    weights: Sequence[Tensor | None],
    keep: Tensor | None,
    out: Tensor,
    h: Tensor,
    stats: Tensor,
    grid_height: int,
    grid_width: int,
    prefix_tokens: int,
    eps: float,
) -> None:
    """Fill ``out``, ``h`` and ``stats``; arguments as in ``ht_kernels.h``."""
    assert _C is not None, _missing
    weights = [_dense(w) for w in weights]
    sizes = _sizes(x, weights, grid_height, grid_width, prefix_tokens)
    source, keep = _unit_stride(x), _dense(keep)
    target = out if out.stride(2) == 1 else torch.empty_like(source)
    _C.adapter_forward(
        sizes,
        eps,
        x.dtype == torch.bfloat16,
        [0 if w is None else w.data_ptr() for w in weights],
        _tokens(source),
        0 if keep is None else keep.data_ptr(),
        _tokens(target),
        h.data_ptr(),
        stats.data_ptr(),
        _threads(x, sizes),
    )
    if target is not out:
        out.copy_(target)


def backward(
    grad_out: Tensor,
    x: Tensor,
    weights: Sequence[Tensor | None],
    keep: Tensor | None,
    h: Tensor,
    stats: Tensor,
    grads: Sequence[Tensor],
    grid_height: int,
    grid_width: int,
    prefix_tokens: int,
    eps: float,
    needs_x: bool,
) -> None:
    """Fill ``grads``, of x and then of each weight; arguments as in ``ht_kernels.h``."""
    assert _C is not None, _missing
    weights = [_dense(w) for w in weights]
    sizes = _sizes(x, weights, grid_height, grid_width, prefix_tokens)
    source, grad_out, keep = _unit_stride(x), _unit_stride(grad_out), _dense(keep)
    h, stats = h.contiguous(), stats.contiguous()
    grad_x = grads[0] if not needs_x or grads[0].stride(2) == 1 else torch.empty_like(source)
    _C.adapter_backward(
        sizes,
        eps,
        x.dtype == torch.bfloat16,
        [0 if w is None else w.data_ptr() for w in weights],
        _tokens(grad_out),
        _tokens(source),
        0 if keep is None else keep.data_ptr(),
        h.data_ptr(),
        stats.data_ptr(),
        _tokens(grad_x) if needs_x else (0, 0, 0),
        [0 if w is None else g.data_ptr() for w, g in zip(weights, grads[1:], strict=True)],
        _threads(x, sizes),
    )
    if needs_x and grad_x is not grads[0]:
        grads[0].copy_(grad_x)


def _sizes(
    x: Tensor,
    weights: Sequence[Tensor | None],
    grid_height: int,
    grid_width: int,
    prefix_tokens: int,
) -> tuple[int, ...]:
    batch, _, dim = x.shape
    kernels, hidden = weights[4], weights[6]
    assert kernels is not None
    scales, bottleneck = kernels.shape[:2]
    width = 0 if hidden is None else hidden.shape[0]
    return batch, dim, bottleneck, width, scales, grid_height, grid_width, prefix_tokens


def _threads(x: Tensor, sizes: tuple[int, ...]) -> int:
    return torch.get_num_threads() if x.numel() * sizes[2] > _SMALL else 1


def _unit_stride(t: Tensor) -> Tensor:
    return t if t.stride(2) == 1 else t.contiguous()


def _dense(t: Tensor | None) -> Tensor | None:
    return t if t is None else t.contiguous()


def _tokens(t: Tensor) -> tuple[int, int, int]:
    return t.data_ptr(), t.stride(0), t.stride(1)
