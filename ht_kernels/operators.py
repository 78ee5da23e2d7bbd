"""The adapter as torch operators: ``torch.ops.ht_kernels.adapter`` with its backward on the CPU, ``adapter_training``
with its backward on a GPU, and ``adapter_inference``.

They are what torch.compile, torch.export, autograd and torch.func see, and are implemented by the compiled backends.
Called through :mod:`ht_kernels.functional`, which checks the arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .backends import CAN_RUN, Case, cpu, cuda, log, reference, retire, triton
from .errors import BackendError
from .fold import FoldedAdapter, cast_matrices

_WEIGHTS = ", ".join(
    f"Tensor{'?' if name.startswith(('hidden', 'score', 'mask')) else ''} {name}" for name in FoldedAdapter._fields
)
_LAYOUT = "int grid_height, int grid_width, int prefix_tokens, float eps"
_WEIGHT_COUNT = len(FoldedAdapter._fields)

_library: Any = torch.library.Library("ht_kernels", "DEF")  # type: ignore[no-untyped-call]
_library.define(f"adapter(Tensor x, {_WEIGHTS}, Tensor? keep, {_LAYOUT}) -> (Tensor out, Tensor h, Tensor stats)")
_library.define(
    f"adapter_backward(Tensor grad_out, Tensor x, {_WEIGHTS}, Tensor? keep, Tensor h, Tensor stats, {_LAYOUT}, "
    "bool needs_x) -> (" + ", ".join(["Tensor"] * (1 + _WEIGHT_COUNT)) + ")"
)
_library.define(
    f"adapter_inference(Tensor x, {_WEIGHTS}, {_LAYOUT}, bool autocast, str backend, bool forced) -> Tensor"
)

_library.define(
    f"adapter_training(Tensor x, {_WEIGHTS}, Tensor? seed, float dropout, {_LAYOUT}, ScalarType dtype) "
    "-> (Tensor out, Tensor h, Tensor stats, Tensor sums)"
)
_library.define(
    f"adapter_training_backward(Tensor grad_out, Tensor x, {_WEIGHTS}, Tensor? seed, Tensor h, Tensor stats, "
    f"Tensor sums, float dropout, {_LAYOUT}, bool needs_x) -> (" + ", ".join(["Tensor"] * (1 + _WEIGHT_COUNT)) + ")"
)

_INFER: dict[str, Callable[..., Tensor]] = {
    "cuda": lambda x, *arguments: cuda.plan(x, *arguments)(x),
    "triton": triton.infer,
}


def adapter_inference(
    x: Tensor,
    folded: FoldedAdapter,
    case: Case,
    eps: float,
    autocast: bool,
    backend: str,
    forced: bool,
) -> Tensor:
    """The adapter on a GPU without gradients; other arguments than ``case`` as in
    :func:`ht_kernels.functional.ht_adapter`.

    Tensor cores may round float32 products where ``torch.set_float32_matmul_precision`` says so, or ``autocast``, which
    rounds more. When ``backend`` fails, the next one that can run takes over, unless the caller ``forced`` it.
    """
    if is_watched(x):
        out: Tensor = torch.ops.ht_kernels.adapter_inference.default(
            x, *folded, *case.grid, case.prefix_tokens, eps, autocast, backend, forced
        )
        return out
    return _infer(x, folded, case, eps, autocast, backend, forced)


def plan_cuda(
    x: Tensor, folded: FoldedAdapter, case: Case, eps: float, autocast: bool, forced: bool
) -> Callable[[Tensor], Tensor]:
    """:func:`adapter_inference` by ``cuda``, for tensors like ``x`` that nobody watches: only the launch is left."""
    run = cuda.plan(x, folded, *case.grid, case.prefix_tokens, eps, autocast or _may_round())

    def call(x: Tensor) -> Tensor:
        try:
            return run(x)
        except (BackendError, torch.OutOfMemoryError):  # met again here, where it is reported and another takes over
            return _infer(x, folded, case, eps, autocast, "cuda", forced)

    return call


def adapter(
    x: Tensor, folded: FoldedAdapter, grid: tuple[int, int], prefix_tokens: int, eps: float, keep: Tensor | None
) -> Tensor:
    """The adapter by a compiled backend; arguments as in :func:`ht_kernels.functional.ht_adapter`."""
    if is_watched(x):
        out: Tensor = torch.ops.ht_kernels.adapter.default(x, *folded, keep, *grid, prefix_tokens, eps)[0]
        return out
    # The dispatcher would come to the same function, with as much work as a tenth of the adapter of one image.
    return _forward(x, *folded, keep, *grid, prefix_tokens, eps)[0]


def adapter_training(
    x: Tensor, folded: FoldedAdapter, case: Case, eps: float, dropout: float, dtype: torch.dtype, forced: bool
) -> Tensor | None:
    """The adapter by Triton with gradients and dropout; arguments as in :func:`ht_kernels.functional.ht_adapter`.

    Matrices and the bottleneck are rounded to ``dtype``. The seed of the dropout comes from torch's generator on the
    device of ``x``. None when the backend failed, so that another has to take over, unless the caller ``forced`` it.
    """
    seed = torch.randint(1 << 62, (1,), device=x.device) if dropout > 0 else None
    arguments = (x, *folded, seed, dropout, *case.grid, case.prefix_tokens, eps, dtype)
    if forced or torch.compiler.is_compiling():
        out: Tensor = torch.ops.ht_kernels.adapter_training.default(*arguments)[0]
        return out
    try:
        out = torch.ops.ht_kernels.adapter_training.default(*arguments)[0]
    except BackendError as error:
        retire("triton", x.device, str(error))
        return None
    return out


def is_watched(x: Tensor) -> bool:
    """Whether somebody has to see the operator: autograd, a compiler, a tracer, a mode, a tensor subclass."""
    return (
        torch.is_grad_enabled()
        or type(x) is not Tensor
        or torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._autograd._profiler_enabled()
    )


def _infer(
    x: Tensor, weights: Sequence[Tensor | None], case: Case, eps: float, autocast: bool, backend: str, forced: bool
) -> Tensor:
    layout = (*case.grid, case.prefix_tokens, eps)
    tf32 = autocast or _may_round()
    candidates = list(_INFER)
    for name in candidates[candidates.index(backend) :]:
        if name != backend and CAN_RUN[name](case) is not None:
            continue
        try:
            return _INFER[name](x, weights, *layout, tf32)
        except (BackendError, torch.OutOfMemoryError) as error:
            if forced:
                raise
            if isinstance(error, BackendError):
                retire(name, x.device, str(error))
            else:
                log.warning("backend '%s' found too little memory for this call: %s", name, error)
    folded = FoldedAdapter(*weights)  # type: ignore[arg-type]
    return reference.adapter(x, cast_matrices(folded, folded.down_bias.dtype), case.grid, case.prefix_tokens, eps)


def _infer_operator(x: Tensor, *rest: Any) -> Tensor:
    weights, (height, width, prefix, *how) = rest[:_WEIGHT_COUNT], rest[_WEIGHT_COUNT:]
    bottleneck, spectral = weights[0].shape[0], weights[-1] is not None
    case = Case(x.device, x.dtype, x.shape[2], bottleneck, (height, width), prefix, False, spectral)
    return _infer(x, weights, case, *how)


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
    return _wanted_grads(ctx, torch.ops.ht_kernels.adapter_backward.default, grad_out)


def _wanted_grads(ctx: Any, operator: Any, grad_out: Tensor | None) -> tuple[Any, ...]:
    """One gradient, or None, per input of the forward operator, from its backward ``operator``."""
    needed = ctx.needs_input_grad
    if grad_out is None:
        return (None,) * len(needed)
    grads = operator(grad_out, *ctx.saved_tensors, *ctx.layout, needed[0])
    wanted = [g if n else None for g, n in zip(grads, needed, strict=False)]
    return *wanted, *[None] * (len(needed) - len(wanted))


def _train(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    seed, dropout, height, width, prefix, eps, dtype = rest[_WEIGHT_COUNT:]
    weights = rest[:_WEIGHT_COUNT]
    return triton.train_forward(x, weights, seed, dropout, height, width, prefix, eps, dtype, _may_round())


def _train_fake(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.empty_like(x), *triton.empty_state(x, rest[:_WEIGHT_COUNT], rest[-1])


def _train_backward(grad_out: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    weights, (seed, h, stats, sums) = rest[:_WEIGHT_COUNT], rest[_WEIGHT_COUNT : _WEIGHT_COUNT + 4]
    dropout, height, width, prefix, _, needs_x = rest[_WEIGHT_COUNT + 4 :]
    grad_x = torch.empty_like(x) if needs_x else None
    grads = triton.train_backward(
        grad_out, x, weights, seed, h, stats, sums, grad_x, dropout, height, width, prefix, _may_round()
    )
    if grad_x is None:
        grad_x = x.new_empty((0,))
    return grad_x, *(x.new_empty((0,), dtype=torch.float32) if g is None else g.contiguous() for g in grads)


def _train_setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, *state = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*state)
    x, *weights, seed = inputs[: _WEIGHT_COUNT + 2]
    ctx.save_for_backward(x, *weights, seed, *state)
    ctx.layout = inputs[_WEIGHT_COUNT + 2 : -1]


def _train_backward_formula(ctx: Any, grad_out: Tensor | None, *_: Any) -> tuple[Any, ...]:
    return _wanted_grads(ctx, torch.ops.ht_kernels.adapter_training_backward.default, grad_out)


def _may_round() -> bool:
    """Whether tensor cores may round float32 products."""
    return torch.get_float32_matmul_precision() != "highest"


def _no_second_derivative(ctx: Any, *grads: Any) -> Any:
    raise NotImplementedError(
        "the compiled adapter has no second derivative; call ht_kernels.set_backend('reference') for one"
    )


_library.impl("adapter", _forward, "CPU")
_library.impl("adapter_backward", _backward, "CPU")
for _device in ("CUDA", "CPU"):  # Triton's interpreter runs on the CPU
    _library.impl("adapter_inference", _infer_operator, _device)
    _library.impl("adapter_training", _train, _device)
    _library.impl("adapter_training_backward", _train_backward, _device)
torch.library.register_fake("ht_kernels::adapter_inference", _infer_fake, lib=_library)
torch.library.register_fake("ht_kernels::adapter", _forward_fake, lib=_library)
torch.library.register_fake("ht_kernels::adapter_backward", _backward_fake, lib=_library)
torch.library.register_autograd("ht_kernels::adapter", _backward_formula, setup_context=_setup_context, lib=_library)
torch.library.register_autograd("ht_kernels::adapter_backward", _no_second_derivative, lib=_library)
torch.library.register_fake("ht_kernels::adapter_training", _train_fake, lib=_library)
torch.library.register_fake("ht_kernels::adapter_training_backward", _backward_fake, lib=_library)
torch.library.register_autograd(
    "ht_kernels::adapter_training", _train_backward_formula, setup_context=_train_setup_context, lib=_library
)
torch.library.register_autograd("ht_kernels::adapter_training_backward", _no_second_derivative, lib=_library)
