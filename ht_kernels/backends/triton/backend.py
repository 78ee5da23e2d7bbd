"""The interface of the Triton backend to the dispatch. It launches on the right device and turns failures into errors.

With ``TRITON_INTERPRET=1`` the backend also runs on the CPU, in Triton's interpreter. This is very slow and meant for
tests, so the backend must be asked for by name. This file imports Triton only when it is needed.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ht_kernels.errors import BackendError, reason
from ht_kernels.folding import FoldedAdapter

from .. import core, gpu, torch_private
from ..call import Case, FilterCase, Layout, MaskCase, Training
from .state import empty_state

if TYPE_CHECKING:
    from .prepared import TritonAdapter

_MAX_BOTTLENECK = 128
_OLDEST = (8, 0)
_MAX_SIDE = 64
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def can_run(case: Case) -> str | None:
    """None when this backend can run ``case``, else the reason."""
    if reason := _reason(case, filters=case.spectral):
        return reason
    if case.keeps:
        return "it draws dropout factors itself: pass dropout, not keep"
    if case.bottleneck > _MAX_BOTTLENECK:
        return f"it takes bottlenecks of at most {_MAX_BOTTLENECK} channels, and this one has {case.bottleneck}"
    return None


def can_filter(case: FilterCase) -> str | None:
    """None when this backend can run the spectral filter ``case``, else the reason."""
    return _reason(case, filters=True)


def can_mask(case: MaskCase) -> str | None:
    """Return the reason why this backend makes no masks."""
    return "it has no kernel that makes masks"


def _reason(case: Case | FilterCase, filters: bool) -> str | None:
    """The reason why no kernel can run ``case``, or None. ``filters`` says whether a spectral filter is in it."""
    if reason := _place_reason(case.device.type, case.device.index, case.named):
        return reason
    if filters and (reason := _grid_reason(case.grid)):
        return reason
    if case.dtype not in _DTYPES:
        return f"it computes float32, float16 and bfloat16, and x is {case.dtype}"
    return core.transforms_reason()


def _grid_reason(grid: tuple[int, int]) -> str | None:
    """The reason why the spectral filter cannot run on a grid, or None."""
    if max(grid) <= _MAX_SIDE:
        return None
    return f"it filters grids of at most {_MAX_SIDE}x{_MAX_SIDE}, and this one is {grid[0]}x{grid[1]}"


@torch_private.constant_for_compilers
def _place_reason(device: str, index: int | None, named: bool) -> str | None:
    """The reason why the backend cannot run on a device, or None."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; it comes with torch for CUDA on Linux"
    if device == "cpu" and _module("tuning").interpreted():
        return None if named else "its interpreter runs on the CPU for who asks for it by name"
    if device != "cuda":
        return f"it runs on a GPU (or with TRITON_INTERPRET=1 on the CPU), and the tensors are on {device}"
    capability = torch.cuda.get_device_capability(index)
    if capability >= _OLDEST:
        return None
    return f"it needs compute capability {_OLDEST[0]}.{_OLDEST[1]}, and the GPU has {capability[0]}.{capability[1]}"


def prepare(folded: FoldedAdapter, dtype: torch.dtype, grid: tuple[int, int]) -> TritonAdapter:
    """Prepare the weights for inference: cast the matrices to ``dtype``, the dtype of products, and align all weights.

    For 16-bit tokens, stack the down projection with both gains.

    Raises:
        BackendError: Triton could not build or start a kernel.
    """
    return _prepare(folded, dtype, training=False)


def prepare_training(folded: FoldedAdapter, dtype: torch.dtype, grid: tuple[int, int]) -> TritonAdapter:
    """Prepare the weights for one step of training, in the same way, but stack nothing.

    Raises:
        BackendError: Triton could not build or start a kernel.
    """
    return _prepare(folded, dtype, training=True)


def _prepare(folded: FoldedAdapter, dtype: torch.dtype, training: bool) -> TritonAdapter:
    with _running(folded.up_weight):
        made: TritonAdapter = _module("prepared").prepare(folded, dtype, training)
    return made


def infer(prepared: TritonAdapter, x: Tensor, layout: Layout, autocast: bool) -> Tensor:
    """Compute the adapter of ``x`` (B, N, D). The result has the strides of ``x``.

    ``autocast`` allows tensor cores to round the factors of float32 products, as
    ``torch.set_float32_matmul_precision("high")`` does.

    Raises:
        BackendError: Triton could not build or start a kernel.
    """
    with _running(x):
        out: Tensor = _module("forward").infer(prepared, x, layout, autocast or gpu.may_round())
    return out


def forward(
    prepared: TritonAdapter, folded: FoldedAdapter, x: Tensor, layout: Layout, training: Training
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the adapter of ``x``, and the state that :func:`backward` needs; see :func:`~.state.empty_state`.

    Raises:
        BackendError: Triton could not build or start a kernel.
    """
    out, state = torch.empty_like(x), empty_state(x, folded, training.dtype)
    with _running(x):
        _module("forward").fill(prepared, x, layout, training, out, *state, gpu.may_round())
    return out, *state


def backward(
    prepared: TritonAdapter,
    folded: FoldedAdapter,
    grad_out: Tensor,
    x: Tensor,
    layout: Layout,
    training: Training,
    state: tuple[Tensor, Tensor, Tensor],
    grad_x: Tensor | None,
) -> FoldedAdapter:
    """Compute the gradients of the folded weights in float32, None for weights that are None. Fill ``grad_x`` if given.

    The last dimension of all tokens is contiguous.

    Raises:
        BackendError: Triton could not build or start a kernel.
    """
    with _running(x), torch.autocast(x.device.type, enabled=False):
        grads: FoldedAdapter = _module("backward").backward(
            prepared, grad_out, x, layout, training, state, grad_x, gpu.may_round()
        )
    return grads


def spectral_filter(x: Tensor, mask: Tensor, out: Tensor) -> None:
    """Write the filtered ``x`` to ``out`` (B, C, H, W), contiguous. ``mask`` (C or 1, H, W // 2 + 1, 2) is float32.

    Raises:
        BackendError: Triton could not build or start a kernel.
    """
    grid = (x.shape[2], x.shape[3])
    with _running(x):
        _module("spectral").filter_images(x.contiguous().flatten(2), mask.contiguous(), out.flatten(2), grid)


def spectral_filter_backward(grad_out: Tensor, x: Tensor, mask: Tensor, grad_x: Tensor, grad_mask: Tensor) -> None:
    """Write the gradients to ``grad_x`` and ``grad_mask``, both contiguous.

    Raises:
        BackendError: Triton could not build or start a kernel.
    """
    grid, grad_out, mask = (x.shape[2], x.shape[3]), grad_out.contiguous().flatten(2), mask.contiguous()
    with _running(x):
        _module("spectral").filter_images(grad_out, mask, grad_x.flatten(2), grid, conjugated=True)
        grad_mask.copy_(_module("spectral").mask_gradient(grad_out, x.contiguous().flatten(2), mask, grid))


@contextmanager
def _running(x: Tensor) -> Iterator[None]:
    """Make the device of ``x`` current, and turn any exception except out-of-memory into a BackendError."""
    try:
        with torch.cuda.device(x.device if x.is_cuda else -1):
            yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # Triton's compiler and autotuner and the driver raise exceptions of many kinds
        raise BackendError(f"Triton could not run the kernels: {type(error).__name__}: {reason(error)}") from error


@functools.cache
def _module(name: str) -> Any:
    """Import the module ``name`` of this package, which imports Triton."""
    return importlib.import_module(f"{__package__}.{name}")
