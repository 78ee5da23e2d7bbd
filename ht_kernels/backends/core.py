"""The compiled module ``ht_kernels._C``, or why there is none, and tensors as it takes them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

module: ModuleType | None = None
missing = ""
try:
    # After torch: the kernels then find its OpenMP library loaded and share its threads.
    module = importlib.import_module("ht_kernels._C")
except ImportError as error:
    missing = f"the compiled core ht_kernels._C could not be imported ({error})"


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
    kernels, hidden = weights[4], weights[6]
    assert kernels is not None
    scales, bottleneck = kernels.shape[:2]
    width = 0 if hidden is None else hidden.shape[0]
    return batch, dim, bottleneck, width, scales, grid_height, grid_width, prefix_tokens


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
    return t.data_ptr(), t.stride(0), t.stride(1)
