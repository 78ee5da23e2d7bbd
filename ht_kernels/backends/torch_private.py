"""All private names of torch that the package uses. For each of them, no public name does the same.

They were tried with torch 2.11.0 and 2.14.1. If another torch lacks one of them, importing or calling this file raises
an AttributeError. Not here are the attributes that ``nn.Module`` has for its subclasses, such as ``_parameters``,
``_buffers`` and ``_apply``: torch's own modules use them, and ours use them in place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.compiler import is_compiling

_P = ParamSpec("_P")
_R = TypeVar("_R")

in_function_transform: Callable[[], bool] = torch._C._are_functorch_transforms_active
"""Whether the call is inside a transform of ``torch.func``, which has no public function to find this out."""

modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
"""The number of modes of ``__torch_dispatch__`` that are entered. Torch has public names to enter one, not to look."""

has_global_hooks: Callable[[], bool] = torch.nn.modules.module._has_any_global_hook
"""Whether a hook for all modules is registered. Torch has public names to register one, not to look."""

_tracing_state: Callable[[], object] = torch._C._get_tracing_state
_is_profiled: Callable[[], bool] = torch._C._autograd._profiler_enabled


below_autograd: Callable[[], AbstractContextManager[object]] = torch._C._AutoDispatchBelowAutograd
"""Inside, an operator runs without its gradients. ``torch.library.register_autograd`` uses it too; that function is
public, and costs the adapter's operator, with its 28 arguments, 0.2 ms more per call (measured with torch 2.14.1)."""

scaled_mm: Callable[..., Tensor] = torch._scaled_mm
"""A product of FP8 matrices with scales. ``torch.nn.functional.scaled_mm`` is public too, but in torch 2.11 it
has no code for CPUs, and torch.compile does not tune it."""


def current_stream(index: int | None) -> int:
    """The address of the current CUDA stream.

    This takes a tenth of the time of ``torch.cuda.current_stream``, which makes an object.
    """
    return torch._C._cuda_getCurrentRawStream(index)  # type: ignore[no-any-return,arg-type]


def is_traced() -> bool:
    """Whether ``torch.jit.trace`` runs the call."""
    return _tracing_state() is not None


def is_watched(x: Tensor) -> bool:
    """Whether a call on ``x`` must go through a torch operator, because something observes operators.

    This is the case for a tensor subclass, and inside a compiler, a tracer, a mode, a transform or a profiler. The
    public names of torch tell about compilers only: they can set the modes of ``__torch_dispatch__``, the state of
    ``torch.jit.trace`` and the state of the profiler, but not read them.
    """
    return (
        type(x) is not Tensor
        or is_compiling()
        or modes() > 0
        or in_function_transform()
        or is_traced()
        or _is_profiled()
    )


def versions(tensors: Iterable[Tensor]) -> list[int]:
    """The number of times each tensor was written in place. Autograd counts them, but has no public name for the count.

    Raises:
        RuntimeError: a tensor was made in inference mode, in which writes are not counted.
    """
    return [t._version for t in tensors]


def constant_for_compilers(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a function so that its results are cached, and torch.compile calls it instead of tracing it.

    ``torch.compiler.assume_constant_result`` also does the latter, but it would import the compiler with this package.
    """
    cached = functools.cache(function)

    @functools.wraps(function)
    def constant(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        return cached(*args, **kwargs)  # type: ignore[arg-type]

    constant._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return constant
