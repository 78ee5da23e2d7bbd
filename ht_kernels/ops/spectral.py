"""The spectral filter as a torch operator, ``torch.ops.ht_kernels.spectral_filter``, with its backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ht_kernels.backends import reference
from ht_kernels.backends.call import FilterCase

from . import dispatch, saved

_library: Any = torch.library.Library("ht_kernels", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("spectral_filter(Tensor x, Tensor mask, str backend) -> Tensor")
_library.define("spectral_filter_backward(Tensor grad_out, Tensor x, Tensor mask, str backend) -> (Tensor, Tensor)")


def spectral_filter(x: Tensor, mask: Tensor, asked: str | None) -> Tensor:
    """Filter ``x`` (B, C, H, W) by ``mask`` (C or 1, H, W // 2 + 1, 2). The result has the dtype of ``x``.

    The arguments are already checked. ``asked`` is the name of the backend asked for, or None.
    """
    needs_grad = torch.is_grad_enabled() and (x.requires_grad or mask.requires_grad)
    case = FilterCase(x.device, x.dtype, (x.shape[2], x.shape[3]), needs_grad)
    if torch.compiler.is_compiling():
        return _filter(dispatch.choose(case, asked), x, mask)
    return dispatch.run(case, asked, lambda name: _filter(name, x, mask))


def _filter(name: str, x: Tensor, mask: Tensor) -> Tensor:
    if name == "reference":
        return reference.spectral_filter(x.to(mask.dtype), mask).to(x.dtype)
    out: Tensor = torch.ops.ht_kernels.spectral_filter.default(x, mask, name)
    return out


def _forward(x: Tensor, mask: Tensor, backend: str) -> Tensor:
    out = _empty(x)
    dispatch.BACKENDS[backend].spectral_filter(x, mask, out)
    return out


def _backward(grad_out: Tensor, x: Tensor, mask: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    grad_x, grad_mask = _empty(x), _empty(mask)
    dispatch.BACKENDS[backend].spectral_filter_backward(grad_out, x, mask, grad_x, grad_mask)
    return grad_x, grad_mask


def _empty(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: Tensor) -> None:
    *tensors, ctx.backend = inputs
    saved.save(ctx, *tensors)


def _backward_formula(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    grads = torch.ops.ht_kernels.spectral_filter_backward.default(grad_out, *saved.give_back(ctx), ctx.backend)
    grad_x, grad_mask = (g if needed else None for g, needed in zip(grads, ctx.needs_input_grad, strict=False))
    return grad_x, grad_mask, None


def _no_second_derivative(ctx: Any, *grads: Any) -> Any:
    raise NotImplementedError(
        "the compiled spectral filter has no second derivative; call ht_kernels.set_backend('reference') for one"
    )


for _device in ("CUDA", "CPU"):
    _library.impl("spectral_filter", _forward, _device)
    _library.impl("spectral_filter_backward", _backward, _device)
torch.library.register_fake("ht_kernels::spectral_filter", lambda x, mask, backend: _empty(x), lib=_library)
torch.library.register_fake(
    "ht_kernels::spectral_filter_backward", lambda grad_out, x, mask, backend: (_empty(x), _empty(mask)), lib=_library
)
torch.library.register_autograd(
    "ht_kernels::spectral_filter", _backward_formula, setup_context=_setup_context, lib=_library
)
torch.library.register_autograd("ht_kernels::spectral_filter_backward", _no_second_derivative, lib=_library)
