"""The adapter as torch operators: ``torch.ops.ht_kernels.adapter`` with its backward, and ``adapter_inference``.

They are what torch.compile, torch.export, autograd and torch.func see, and are implemented by the compiled backends.
Called through :mod:`ht_kernels.functional`, which checks the arguments.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .backends import cpu, cuda
from .fold import FoldedAdapter

_WEIGHTS = ", ".join(
    f"Tensor{'?' if name.startswith(('hidden', 'score')) else ''} {name}" for name in FoldedAdapter._fields
)
_LAYOUT = "int grid_height, int grid_width, int prefix_tokens, float eps"
_WEIGHT_COUNT = len(FoldedAdapter._fields)

_library: Any = torch.library.Library("ht_kernels", "DEF")  # type: ignore[no-untyped-call]
_library.define(f"adapter(Tensor x, {_WEIGHTS}, Tensor? keep, {_LAYOUT}) -> (Tensor out, Tensor h, Tensor stats)")
_library.define(
    f"adapter_backward(Tensor grad_out, Tensor x, {_WEIGHTS}, Tensor? keep, Tensor h, Tensor stats, {_LAYOUT}, "
    "bool needs_x) -> (" + ", ".join(["Tensor"] * (1 + _WEIGHT_COUNT)) + ")"
)
_library.define(f"adapter_inference(Tensor x, {_WEIGHTS}, {_LAYOUT}, bool tf32) -> Tensor")


def adapter_inference(
    x: Tensor, folded: FoldedAdapter, grid: tuple[int, int], prefix_tokens: int, eps: float, tf32: bool
) -> Tensor:
    """The adapter on a GPU without gradients; arguments as in :func:`ht_kernels.functional.ht_adapter`."""
    if _is_watched(x):
        out: Tensor = torch.ops.ht_kernels.adapter_inference.default(x, *folded, *grid, prefix_tokens, eps, tf32)
        return out
    return cuda.infer(x, folded, *grid, prefix_tokens, eps, tf32)


def adapter(
    x: Tensor, folded: FoldedAdapter, grid: tuple[int, int], prefix_tokens: int, eps: float, keep: Tensor | None
) -> Tensor:
    """The adapter by a compiled backend; arguments as in :func:`ht_kernels.functional.ht_adapter`."""
    if _is_watched(x):
        out: Tensor = torch.ops.ht_kernels.adapter.default(x, *folded, keep, *grid, prefix_tokens, eps)[0]
        return out
    # The dispatcher would come to the same function, with as much work as a tenth of the adapter of one image.
    return _forward(x, *folded, keep, *grid, prefix_tokens, eps)[0]


def _is_watched(x: Tensor) -> bool:
    """Whether somebody has to see the operator: autograd, a compiler, a tracer, a mode, a tensor subclass."""
    return (
        torch.is_grad_enabled()
        or type(x) is not Tensor
        or torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._autograd._profiler_enabled()
    )


def _infer(x: Tensor, *rest: Any) -> Tensor:
    return cuda.infer(x, rest[:_WEIGHT_COUNT], *rest[_WEIGHT_COUNT:])


def _infer_fake(x: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(x)


def _forward(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    weights, (keep, *layout) = rest[:_WEIGHT_COUNT], rest[_WEIGHT_COUNT:]
    out, h, stats = _empty_outputs(x, weights)
    cpu.forward(x, weights, keep, out, h, stats, *layout)
    return out, h, stats


def _forward_fake(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_outputs(x, rest[:_WEIGHT_COUNT])


def _empty_outputs(x: Tensor, weights: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor]:
    batch, tokens, _ = x.shape
    h = x.new_empty((batch, tokens, weights[0].shape[0]), dtype=torch.float32)
    return torch.empty_like(x), h, x.new_empty((batch, tokens, 2), dtype=torch.float32)


def _backward(grad_out: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    weights, (keep, h, stats, *layout) = rest[:_WEIGHT_COUNT], rest[_WEIGHT_COUNT:]
    grads = _empty_grads(x, weights, needs_x=layout[-1])
    cpu.backward(grad_out, x, weights, keep, h, stats, grads, *layout)
    return grads


def _backward_fake(grad_out: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return _empty_grads(x, rest[:_WEIGHT_COUNT], rest[-1])


def _empty_grads(x: Tensor, weights: tuple[Any, ...], needs_x: bool) -> tuple[Tensor, ...]:
    """Memory for gradients; a tensor of no elements stands for a gradient that is not wanted or does not exist."""
    nothing = (0,)
    grad_x = torch.empty_like(x) if needs_x else x.new_empty(nothing)
    return grad_x, *(x.new_empty(nothing if w is None else w.shape, dtype=torch.float32) for w in weights)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, h, stats = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(h, stats)
    x, *weights, keep = inputs[: _WEIGHT_COUNT + 2]
    ctx.save_for_backward(x, *weights, keep, h, stats)
    ctx.layout = inputs[_WEIGHT_COUNT + 2 :]


def _backward_formula(ctx: Any, grad_out: Tensor | None, *_: Any) -> tuple[Any, ...]:
    no_grads = (None,) * (_WEIGHT_COUNT + 6)
    if grad_out is None:
        return no_grads
    needs_x = ctx.needs_input_grad[0]
    grad_x, *grads = torch.ops.ht_kernels.adapter_backward.default(grad_out, *ctx.saved_tensors, *ctx.layout, needs_x)
    wanted = [g if needed else None for g, needed in zip(grads, ctx.needs_input_grad[1:], strict=False)]
    return grad_x if needs_x else None, *wanted, *no_grads[: 1 + len(ctx.layout)]


def _no_second_derivative(ctx: Any, *grads: Any) -> Any:
    raise NotImplementedError(
        "the compiled adapter has no second derivative; call ht_kernels.set_backend('reference') for one"
    )


_library.impl("adapter", _forward, "CPU")
_library.impl("adapter_backward", _backward, "CPU")
_library.impl("adapter_inference", _infer, "CUDA")
torch.library.register_fake("ht_kernels::adapter_inference", _infer_fake, lib=_library)
torch.library.register_fake("ht_kernels::adapter", _forward_fake, lib=_library)
torch.library.register_fake("ht_kernels::adapter_backward", _backward_fake, lib=_library)
torch.library.register_autograd("ht_kernels::adapter", _backward_formula, setup_context=_setup_context, lib=_library)
torch.library.register_autograd("ht_kernels::adapter_backward", _no_second_derivative, lib=_library)
