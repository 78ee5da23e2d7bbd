"""The compiled CPU backend: C++ kernels behind ``ht_kernels._C``, forward and backward, float32 and bfloat16."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import core

if TYPE_CHECKING:
    from . import Case, FilterCase

_SMALL = 1 << 20
"""Multiply-adds below which waking a second thread costs more than it saves."""


def can_run(case: Case) -> str | None:
    """None when this backend can run ``case``, else the reason."""
    if core.module is None:
        return core.missing
    if case.device.type != "cpu":
        return f"it runs on the CPU, and the tensors are on {case.device}"
    if case.dtype not in (torch.float32, torch.bfloat16):
        return f"it computes float32 and bfloat16, and x is {case.dtype}"
    return core.transforms_reason()


def can_filter(case: FilterCase) -> str | None:
    """None when this backend can run the spectral filter ``case``, else the reason."""
    if core.module is None:
        return core.missing
    if case.device.type != "cpu":
        return f"it runs on the CPU, and the tensors are on {case.device}"
    if case.dtype != torch.float32:
        return f"it filters float32, and x is {case.dtype}"
    return core.transforms_reason()


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
    assert core.module is not None, core.missing
    weights = [core.dense(w) for w in weights]
    sizes = core.sizes(x, weights, grid_height, grid_width, prefix_tokens)
    source, keep = core.unit_stride(x), core.dense(keep)
    target = out if out.stride(2) == 1 else torch.empty_like(source)
    core.module.adapter_forward(
        sizes,
        eps,
        x.dtype == torch.bfloat16,
        [core.address(w) for w in weights],
        core.tokens(source),
        core.address(keep),
        core.tokens(target),
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
    assert core.module is not None, core.missing
    weights = [core.dense(w) for w in weights]
    sizes = core.sizes(x, weights, grid_height, grid_width, prefix_tokens)
    source, grad_out, keep = core.unit_stride(x), core.unit_stride(grad_out), core.dense(keep)
    h, stats = h.contiguous(), stats.contiguous()
    grad_x = grads[0] if not needs_x or grads[0].stride(2) == 1 else torch.empty_like(source)
    core.module.adapter_backward(
        sizes,
        eps,
        x.dtype == torch.bfloat16,
        [core.address(w) for w in weights],
        core.tokens(grad_out),
        core.tokens(source),
        core.address(keep),
        h.data_ptr(),
        stats.data_ptr(),
        core.tokens(grad_x) if needs_x else (0, 0, 0),
        [0 if w is None else g.data_ptr() for w, g in zip(weights, grads[1:], strict=True)],
        _threads(x, sizes),
    )
    if needs_x and grad_x is not grads[0]:
        grads[0].copy_(grad_x)


def spectral_filter(x: Tensor, mask: Tensor, out: Tensor) -> None:
    """Fill ``out`` (B, C, H, W), contiguous; ``mask`` (C or 1, H, W // 2 + 1, 2)."""
    assert core.module is not None, core.missing
    x, mask = x.contiguous(), mask.contiguous()
    sizes = (*x.shape, mask.shape[0])
    core.module.spectral_filter(sizes, x.data_ptr(), mask.data_ptr(), out.data_ptr(), _filter_threads(x))


def spectral_filter_backward(grad_out: Tensor, x: Tensor, mask: Tensor, grad_x: Tensor, grad_mask: Tensor) -> None:
    """Fill ``grad_x`` and ``grad_mask``, contiguous."""
    assert core.module is not None, core.missing
    grad_out, x, mask = grad_out.contiguous(), x.contiguous(), mask.contiguous()
    core.module.spectral_filter_backward(
        (*x.shape, mask.shape[0]),
        grad_out.data_ptr(),
        x.data_ptr(),
        mask.data_ptr(),
        grad_x.data_ptr(),
        grad_mask.data_ptr(),
        _filter_threads(x),
    )


def _filter_threads(x: Tensor) -> int:
    return torch.get_num_threads() if 2 * x.numel() * (2 * x.shape[2] + x.shape[3]) > _SMALL else 1


def _threads(x: Tensor, sizes: tuple[int, ...]) -> int:
    return torch.get_num_threads() if x.numel() * sizes[2] > _SMALL else 1
