"""The adapter as torch operators: ``torch.ops.ht_kernels.adapter`` and ``adapter_backward``.

torch.compile, torch.export and autograd see these operators. The weights in their schemas are the fields of
:class:`~ht_kernels.folding.FoldedAdapter`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ht_kernels.backends import reference, torch_private
from ht_kernels.backends.call import Case, Layout, Training, unit_stride
from ht_kernels.folding import OPTIONAL, FoldedAdapter, on_grid

from . import dispatch, saved
from .prepared import weights_dtype

_COUNT = len(FoldedAdapter._fields)
WEIGHTS = ", ".join(f"Tensor{'?' if name in OPTIONAL else ''} {name}" for name in FoldedAdapter._fields)
_TRAINING = "Tensor? keep, Tensor? seed, float dropout, ScalarType dtype"
LAYOUT = "int grid_height, int grid_width, int prefix_tokens, float eps"

_library: Any = torch.library.Library("ht_kernels", "DEF")  # type: ignore[no-untyped-call]
_library.define(
    f"adapter(Tensor x, {WEIGHTS}, {_TRAINING}, {LAYOUT}, bool autocast, bool train, str backend, bool forced)"
    " -> (Tensor out, Tensor h, Tensor stats, Tensor sums)"
)
_library.define(
    f"adapter_backward(Tensor grad_out, Tensor x, {WEIGHTS}, Tensor h, Tensor stats, Tensor sums, {_TRAINING}, "
    f"{LAYOUT}, bool needs_x, str backend) -> (" + ", ".join(["Tensor"] * (1 + _COUNT)) + ")"
)


def adapter(
    backend: str,
    x: Tensor,
    folded: FoldedAdapter,
    training: Training,
    layout: Layout,
    autocast: bool,
    train: bool,
    forced: bool,
) -> Tensor:
    """Call the operator. A radial mask in ``folded`` must already be expanded to the grid.

    With ``train``, the call has gradients and the dropout that ``training`` describes, and ``backend`` runs it. Without
    ``train``, ``backend`` runs it only if ``forced``. Otherwise the operator chooses a backend each time it runs,
    because a compiled or exported program runs it later, when a backend may have failed, or on another machine.
    """
    given = x, *folded, *training, *layout, autocast, train, backend, forced
    if train and not torch_private.is_watched(x):  # nobody sees the operator, which takes as long as a small fold
        return _Adapter.apply(*given)[0]  # type: ignore[no-any-return,no-untyped-call]
    out: Tensor = torch.ops.ht_kernels.adapter.default(*given)[0]
    return out


def backward(
    backend: str,
    grad_out: Tensor,
    x: Tensor,
    folded: FoldedAdapter,
    state: Sequence[Tensor],
    training: Training,
    layout: Layout,
    needs_x: bool,
) -> tuple[Tensor | None, ...]:
    """The gradients of ``x`` and of the folded weights, by the backend that computed ``state`` in the forward.

    The gradient of ``x`` is None or empty unless ``needs_x``, and so is that of a weight that is None.
    """
    given: Any = grad_out, x, *folded, *state, *training, *layout, needs_x, backend
    if torch.is_grad_enabled() or torch_private.is_watched(grad_out):
        found: tuple[Tensor, ...] = torch.ops.ht_kernels.adapter_backward.default(*given)
        return found
    return _backward(*given)


def train(name: str, x: Tensor, folded: FoldedAdapter, layout: Layout, keep: Tensor | None, dropout: float) -> Tensor:
    """Compute the adapter with gradients and dropout by the backend ``name``."""
    folded = on_grid(folded, layout.grid)
    if keep is None:
        training = draw(name, x, folded.up_weight.shape[1], folded.down_bias.dtype, dropout)
    else:
        training = Training(keep, None, dropout, _product_dtype(x))
    if name == "reference":
        return reference.adapter(x, folded, layout, training.keep)
    return adapter(name, x, folded, training, layout, autocast=False, train=True, forced=True)


def draw(name: str, x: Tensor, bottleneck: int, dtype: torch.dtype, dropout: float) -> Training:
    """Draw the factors of dropout in ``dtype``. Triton draws them in its kernels, from a seed that is drawn here."""
    keep, seed = None, None
    if dropout > 0 and name == "triton":
        seed = torch.randint(1 << 62, (1,), device=x.device)
    elif dropout > 0:
        keep = F.dropout(x.new_ones(*x.shape[:2], bottleneck, dtype=dtype), dropout)
    return Training(keep, seed, dropout, _product_dtype(x))


def _product_dtype(x: Tensor) -> torch.dtype:
    """The dtype of matrix products in training: autocast's if it is on, otherwise the dtype of ``x``."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _forward(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    folded, training, layout, (autocast, train, name, forced) = _unpack(rest)
    if train:
        backend = dispatch.BACKENDS[name]
        prepared = backend.prepare_training(folded, training.dtype, layout.grid)
        out, *state = backend.forward(prepared, folded, x, layout, training)
        return out, *state
    case = Case.of(x, folded.up_weight, folded.mask, layout, needs_grad=False)
    asked = name if forced else None
    out = dispatch.run(case, asked, lambda chosen: _infer(chosen, x, folded, layout, autocast))
    return out, *(x.new_empty((0,)) for _ in range(3))


def _infer(name: str, x: Tensor, folded: FoldedAdapter, layout: Layout, autocast: bool) -> Tensor:
    """Compute the adapter without gradients by the backend ``name``, with weights prepared for this call only."""
    backend = dispatch.BACKENDS[name]
    dtype = weights_dtype(x, autocast)
    out: Tensor = backend.infer(backend.prepare(folded, dtype, layout.grid), x, layout, autocast)
    return out


def _forward_fake(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    folded, training, _, (_, train, name, _) = _unpack(rest)
    if not train:
        return torch.empty_like(x), *(x.new_empty((0,)) for _ in range(3))
    h, stats, sums = dispatch.BACKENDS[name].empty_state(x, folded, training.dtype)
    return torch.empty_like(x), h, stats, sums


def _backward(grad_out: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    folded, state = FoldedAdapter(*rest[:_COUNT]), rest[_COUNT : _COUNT + 3]
    training, layout, (needs_x, name) = _split(rest[_COUNT + 3 :])
    backend = dispatch.BACKENDS[name]
    grad_out, x = unit_stride(grad_out), unit_stride(x)
    grad_x = torch.empty_like(x) if needs_x else None
    prepared = backend.prepare_training(folded, training.dtype, layout.grid)
    grads = backend.backward(prepared, folded, grad_out, x, layout, training, state, grad_x)
    return _or_nothing(x, grad_x), *(_or_nothing(x, None if g is None else g.contiguous()) for g in grads)


def _backward_fake(grad_out: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    folded, needs_x = rest[:_COUNT], rest[-2]
    grads = (None if w is None else w.new_empty(w.shape, dtype=torch.float32) for w in folded)
    return _or_nothing(x, torch.empty_like(unit_stride(x)) if needs_x else None), *(_or_nothing(x, g) for g in grads)


def _or_nothing(x: Tensor, grad: Tensor | None) -> Tensor:
    """Return ``grad``, or an empty tensor if it is None, because operators cannot return None."""
    return x.new_empty((0,), dtype=torch.float32) if grad is None else grad


def _unpack(rest: tuple[Any, ...]) -> tuple[FoldedAdapter, Training, Layout, tuple[Any, ...]]:
    """Group the arguments that follow x in the schema of the forward."""
    return FoldedAdapter(*rest[:_COUNT]), *_split(rest[_COUNT:])


def _split(rest: tuple[Any, ...]) -> tuple[Training, Layout, tuple[Any, ...]]:
    return Training(*rest[:4]), Layout(*rest[4:8]), rest[8:]


class _Adapter(torch.autograd.Function):
    """The operator with its gradients.

    ``torch.library.register_autograd`` would do the same, and look every argument up in the schema at each call. That
    takes as long as a tenth of an adapter's forward.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        if torch_private.is_watched(x):
            with torch_private.below_autograd():
                out, *state = torch.ops.ht_kernels.adapter.default(x, *rest)
        else:
            out, *state = _forward(x, *rest)
        folded, training, layout, (_, _, ctx.backend, _) = _unpack(rest)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*state)
        saved.save(ctx, x, *folded, *state, training.keep, training.seed)
        ctx.constants = training.dropout, training.dtype, *layout
        return out, *state

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad
        if grad_out is None:
            return (None,) * len(needed)
        x, *kept = saved.give_back(ctx)
        folded, state, (keep, seed) = FoldedAdapter(*kept[:_COUNT]), kept[_COUNT : _COUNT + 3], kept[_COUNT + 3 :]
        training, layout = Training(keep, seed, *ctx.constants[:2]), Layout(*ctx.constants[2:])
        grads = backward(ctx.backend, grad_out, x, folded, state, training, layout, needed[0])
        wanted = [g if n else None for g, n in zip(grads, needed, strict=False)]
        return *wanted, *[None] * (len(needed) - len(wanted))


def _no_second_derivative(ctx: Any, *grads: Any) -> Any:
    raise NotImplementedError(
        "the compiled adapter has no second derivative; call ht_kernels.set_backend('reference') for one"
    )


for _device in ("CUDA", "CPU"):
    _library.impl("adapter", _forward, _device)
    _library.impl("adapter_backward", _backward, _device)
torch.library.register_fake("ht_kernels::adapter", _forward_fake, lib=_library)
torch.library.register_fake("ht_kernels::adapter_backward", _backward_fake, lib=_library)
_library.impl("adapter", _Adapter.apply, "Autograd")
torch.library.register_autograd("ht_kernels::adapter_backward", _no_second_derivative, lib=_library)
