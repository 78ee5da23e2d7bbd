"""The compiled module ``ht_kernels._C``, or why there is none, and tensors as it takes them."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

_P = ParamSpec("_P")
_R = TypeVar("_R")

module: ModuleType | None = None
missing = ""
try:
    # After torch: the kernels then find its OpenMP library loaded and share its threads.
    module = importlib.import_module("ht_kernels._C")
except ImportError as error:
    missing = f"the compiled core ht_kernels._C could not be imported ({error})"


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


def transforms_reason() -> str | None:
    """Why no compiled backend can run inside a function transform, or None outside of one."""
    if torch._C._are_functorch_transforms_active():
        return "torch.func does not see through its operators"
    return None


def sizes(
    x: Tensor, weights: Sequence[Tensor | None], grid_height: int, grid_width: int, prefix_tokens: int
) -> tuple[int, ...]:
    """The fields of ``ht_adapter_shape`` but eps."""
    batch, _, dim = x.shape
    kernels, hidden, mask = weights[4], weights[6], weights[14]
    assert kernels is not None
    scales, bottleneck = kernels.shape[:2]
    width = 0 if hidden is None else hidden.shape[0]
    masks = 0 if mask is None else mask.shape[0]
    return batch, dim, bottleneck, width, scales, grid_height, grid_width, prefix_tokens, masks


def unit_stride(t: Tensor) -> Tensor:
    """``t`` with its last dimension contiguous."""
    return t if t.stride(2) == 1 else t.contiguous()


def dense(t: Tensor | None) -> Tensor | None:
    """``t`` contiguous."""
    return t if t is None else t.contiguous()


def address(t: Tensor | None) -> int:
    """Where ``t`` lies; 0 for None."""
    return 0 if t is None else t.data_ptr()


def tokens(t: Tensor) -> tuple[int, int, int]:
    """``ht_tokens``."""
    batch_stride, token_stride, _ = t.stride()
    return t.data_ptr(), batch_stride, token_stride


_MATRICES = (0, 10, 12)
"""Which folded weights kernels on a GPU take in the dtype of x: down_weight, mix_weight, up_weight."""
ALIGNMENT = 16
"""Bytes of one load."""


def ready_for_gpu(dtype: torch.dtype, weights: Sequence[Tensor | None]) -> tuple[list[Tensor | None], list[int]]:
    """Folded weights as kernels on a GPU take them, and their addresses; 0 for None.

    Contiguous, aligned, the matrices in ``dtype``, the rest in float32. Weights that are so already are passed on:
    this runs at every call.
    """
    ready, addresses = list(weights), [0] * len(weights)
    for i, weight in enumerate(weights):
        if weight is None:
            continue
        wanted = dtype if i in _MATRICES else torch.float32
        if weight.dtype is not wanted or not weight.is_contiguous():
            ready[i] = weight = weight.to(wanted).contiguous()
        addresses[i] = weight.data_ptr()
        if addresses[i] % ALIGNMENT:
            ready[i] = weight = weight.clone()
            addresses[i] = weight.data_ptr()
    return ready, addresses
