"""The private names of torch that the package uses, each because no public one does the same.

Tried with torch 2.14.1. A name that a later torch lacks shows at import, or at the first call, as an AttributeError
from this file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.compiler import is_compiling

_P = ParamSpec("_P")
_R = TypeVar("_R")

in_function_transform: Callable[[], bool] = torch._C._are_functorch_transforms_active
"""Whether a transform of ``torch.func`` is under way. ``torch.func`` has no function that tells."""


_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
_tracing_state: Callable[[], object] = torch._C._get_tracing_state
_is_profiled: Callable[[], bool] = torch._C._autograd._profiler_enabled


def current_stream(index: int | None) -> int:
    """The current CUDA stream as an address, in a tenth of the time of ``torch.cuda.current_stream``, which makes an
    object."""
    return torch._C._cuda_getCurrentRawStream(index)  # type: ignore[no-any-return,arg-type]


def is_watched(x: Tensor) -> bool:
    """Whether somebody has to see an operator on ``x``: a compiler, a tracer, a mode, a transform, a profiler, a tensor
    subclass.

    Public are ``torch.compiler.is_compiling`` and ``type``. The modes of ``__torch_dispatch__``, the state of
    ``torch.jit.trace`` and that of the profiler can be set, but not read, by public names.
    """
    return (
        type(x) is not Tensor
        or is_compiling()
        or _modes() > 0
        or in_function_transform()
        or _tracing_state() is not None
        or _is_profiled()
    )


def versions(tensors: Iterable[Tensor]) -> list[int]:
    """How often each was written in place, which autograd counts and no public name tells.

    Raises:
        RuntimeError: a tensor was made in inference mode, where nothing is counted.
    """
    return [t._version for t in tensors]


def constant_for_compilers(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """``function`` with its result kept, and run rather than traced by torch.compile.

    As ``torch.compiler.assume_constant_result``, which would import the compiler along with this package.
    """
    cached = functools.cache(function)

    @functools.wraps(function)
    def constant(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        return cached(*args, **kwargs)  # type: ignore[arg-type]

    constant._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return constant
