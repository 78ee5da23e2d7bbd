"""The spectral filter as torch operators: ``torch.ops.ht_kernels.spectral_filter`` with its backward.

Called through :func:`ht_kernels.functional.spectral_filter`, which checks the arguments.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .backends import cpu

_library: Any = torch.library.Library("ht_kernels", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("spectral_filter(Tensor x, Tensor mask) -> Tensor")
_library.define("spectral_filter_backward(Tensor grad_out, Tensor x, Tensor mask) -> (Tensor, Tensor)")


def spectral_filter(x: Tensor, mask: Tensor) -> Tensor:
    """The filter by a compiled backend: ``x`` (B, C, H, W), ``mask`` (C or 1, H, W // 2 + 1, 2); contiguous result."""
    out: Tensor = torch.ops.ht_kernels.spectral_filter.default(x, mask)
    return out


def _forward(x: Tensor, mask: Tensor) -> Tensor:
    out = _empty(x)
    cpu.spectral_filter(x, mask, out)
    return out


def _backward(grad_out: Tensor, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    grad_x, grad_mask = _empty(x), _empty(mask)
    cpu.spectral_filter_backward(grad_out, x, mask, grad_x, grad_mask)
    return grad_x, grad_mask


def _empty(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward_formula(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, Tensor | None]:
    grads = torch.ops.ht_kernels.spectral_filter_backward.default(grad_out, *ctx.saved_tensors)
    grad_x, grad_mask = (g if needed else None for g, needed in zip(grads, ctx.needs_input_grad, strict=True))
    return grad_x, grad_mask


def _no_second_derivative(ctx: Any, *grads: Any) -> Any:
    raise NotImplementedError(
        "the compiled spectral filter has no second derivative; call ht_kernels.set_backend('reference') for one"
    )


_library.impl("spectral_filter", _forward, "CPU")
_library.impl("spectral_filter_backward", _backward, "CPU")
torch.library.register_fake("ht_kernels::spectral_filter", lambda x, mask: _empty(x), lib=_library)
torch.library.register_fake(
    "ht_kernels::spectral_filter_backward", lambda grad_out, x, mask: (_empty(x), _empty(mask)), lib=_library
)
torch.library.register_autograd(
    "ht_kernels::spectral_filter", _backward_formula, setup_context=_setup_context, lib=_library
)
torch.library.register_autograd("ht_kernels::spectral_filter_backward", _no_second_derivative, lib=_library)
