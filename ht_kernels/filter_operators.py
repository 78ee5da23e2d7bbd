"""The spectral filter as torch operators: ``torch.ops.ht_kernels.spectral_filter`` with its backward.

Called through :func:`ht_kernels.functional.spectral_filter`, which checks the arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .backends import cpu, cuda, retire, triton
from .errors import BackendError

_library: Any = torch.library.Library("ht_kernels", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("spectral_filter(Tensor x, Tensor mask, str backend) -> Tensor")
_library.define("spectral_filter_backward(Tensor grad_out, Tensor x, Tensor mask, str backend) -> (Tensor, Tensor)")

_FILTER: dict[str, Callable[[Tensor, Tensor, Tensor], None]] = {
    "cuda": cuda.spectral_filter,
    "cpu": cpu.spectral_filter,
    "triton": triton.spectral_filter,
}
"""By backend: fill the last argument, contiguous, with the filter of ``x`` and ``mask``."""
_FILTER_BACKWARD: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], None]] = {
    "cpu": cpu.spectral_filter_backward,
    "triton": triton.spectral_filter_backward,
}
"""By backend: fill the last two, contiguous, with the gradients of ``x`` and ``mask`` from ``grad_out`` and these."""


def spectral_filter(x: Tensor, mask: Tensor, backend: str, forced: bool) -> Tensor | None:
    """The filter by a compiled backend: ``x`` (B, C, H, W), ``mask`` (C or 1, H, W // 2 + 1, 2); contiguous result.

    None when ``backend`` failed, so that another has to take over, unless the caller ``forced`` it.
    """
    try:
        out: Tensor = torch.ops.ht_kernels.spectral_filter.default(x, mask, backend)
    except BackendError as error:
        if forced:
            raise
        retire(backend, x.device, str(error))
        return None
    return out


def _forward(x: Tensor, mask: Tensor, backend: str) -> Tensor:
    out = _empty(x)
    _FILTER[backend](x, mask, out)
    return out


def _backward(grad_out: Tensor, x: Tensor, mask: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    grad_x, grad_mask = _empty(x), _empty(mask)
    _FILTER_BACKWARD[backend](grad_out, x, mask, grad_x, grad_mask)
    return grad_x, grad_mask


def _empty(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: Tensor) -> None:
    *tensors, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _backward_formula(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    grads = torch.ops.ht_kernels.spectral_filter_backward.default(grad_out, *ctx.saved_tensors, ctx.backend)
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
