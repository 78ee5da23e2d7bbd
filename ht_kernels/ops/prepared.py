"""The cache of prepared weights: packed panels, cast matrices and addresses that backends made from folded weights.

The cache is an attribute of the :class:`~ht_kernels.folding.FoldedAdapter` and lives as long as that. It is made anew
when a weight was written in place or moved.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ht_kernels.backends import torch_private
from ht_kernels.backends.call import Layout
from ht_kernels.folding import FoldedAdapter, on_grid

_MOST_CALLS = 64
"""The largest number of different calls that are remembered for one set of weights."""
_MOST_MADE = 16
"""The largest number of prepared weights per set of folded weights: one per backend, dtype and grid of a mask."""

_memcmp = ctypes.PyDLL("msvcrt" if os.name == "nt" else None).memcmp  # PyDLL: a thread that waits for the GIL waits on
_memcmp.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t


class Stamp:
    """Tells whether tensors are unchanged: not written in place, and still in the same memory.

    A tensor is compared by its version and address and, if a transpose of it would have the same shape, by its strides.
    Its storage is kept alive, so that no other tensor can get the address. Tensors made in inference mode have no
    version, and tensors inside a transform such as ``vmap`` have no address; with one of these, no comparison is
    possible.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        held = list(tensors)
        self.known = not torch_private.in_function_transform() and all(
            type(t) in (Tensor, nn.Parameter) and not t.is_inference() for t in held
        )
        self.tensors = held if self.known else []
        self.versions = torch_private.versions(self.tensors)
        self.addresses = list(map(Tensor.data_ptr, self.tensors))
        squares = [t for t in self.tensors if _has_equal_sides(t)]
        self.squares = [t for t in squares if t.is_contiguous()]  # their transposes are not contiguous
        self.strides = [(t, t.stride()) for t in squares if not t.is_contiguous()]
        self.storages = [t.untyped_storage() for t in self.tensors]

    def holds(self) -> bool:
        """Whether all tensors are unchanged; False if no comparison is possible."""
        return (
            self.known
            and torch_private.versions(self.tensors) == self.versions
            and list(map(Tensor.data_ptr, self.tensors)) == self.addresses
            and all(map(Tensor.is_contiguous, self.squares))
            and (not self.strides or all(t.stride() == strides for t, strides in self.strides))
        )


class Contents:
    """Tells whether tensors on the CPU still have the values that they had, bit by bit.

    This finds writes that autograd does not count: through ``parameter.data``, NumPy or another process. It keeps a
    copy of each tensor, which takes as much memory again; a checksum would be no faster and could be wrong. Tensors on
    a GPU are not compared, because the answer would have to be waited for. Addresses must not have changed.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        held = [(t.detach(), t.detach().clone()) for t in tensors if t.device.type == "cpu"]
        dense = [(t, copy) for t, copy in held if t.stride() == copy.stride()]  # then the same order in memory
        self.dense = [(t.data_ptr(), copy.data_ptr(), t.numel() * t.element_size()) for t, copy in dense]
        self.others = [(t, copy) for t, copy in held if t.stride() != copy.stride()]
        self.copies = [copy for _, copy in dense]  # keeps their memory

    def hold(self) -> bool:
        """Whether all tensors are unchanged."""
        return all(_memcmp(*pair) == 0 for pair in self.dense) and all(torch.equal(*pair) for pair in self.others)


class Prepared:
    """The prepared weights of all backends for one set of folded weights, and the calls that used them.

    Args:
        folded: the folded weights.
        guarded: the owner of the weights guarantees that they do not change, so calls need not check it.
    """

    def __init__(self, folded: FoldedAdapter, guarded: bool) -> None:
        self.stamp = None if guarded else Stamp(t for t in folded if t is not None)
        self._by: dict[tuple[Any, ...], Any] = {}
        self._calls: dict[tuple[Any, ...], tuple[ModuleType, Any, Layout]] = {}
        self._lock = threading.Lock()  # one thread at a time prepares weights

    def is_current(self) -> bool:
        """Whether the folded weights are unchanged since this object was made."""
        return self.stamp is None or self.stamp.holds()

    def by(self, backend: ModuleType, folded: FoldedAdapter, dtype: torch.dtype, grid: tuple[int, int]) -> Any:
        """Return the prepared weights of ``backend`` for a dtype, and, if there is a mask, for ``grid``."""
        if is_captured(folded.up_weight):
            return backend.prepare(on_grid(folded, grid), dtype, grid)
        key = backend, dtype, None if folded.mask is None else grid
        made = self._by.get(key)
        if made is not None:
            return made
        with self._lock:
            made = self._by.get(key)  # another thread may have prepared them meanwhile
            if made is None:
                made = backend.prepare(on_grid(folded, grid), dtype, grid)
                wait_for(folded.up_weight)
                if len(self._by) >= _MOST_MADE:
                    self._by.clear()
                self._by[key] = made
        return made

    def remember(
        self, x: Tensor, dtype: torch.dtype, layout: Layout, choices: int, backend: ModuleType, made: Any
    ) -> None:
        """Remember that ``backend`` ran a call of this kind with the weights ``made``, prepared for ``dtype``.

        ``choices`` is the current number of changes to the choice of backends; see ``dispatch.choices``. After another
        change, the call is not recalled.
        """
        if is_captured(x):
            return
        if len(self._calls) >= _MOST_CALLS:
            self._calls.clear()
        self._calls[(x.shape, x.dtype, x.device, dtype, *layout, choices)] = backend, made, layout

    def recall(
        self, x: Tensor, dtype: torch.dtype, height: int, width: int, prefix_tokens: int, eps: float, choices: int
    ) -> tuple[ModuleType, Any, Layout] | None:
        """Return the backend that ran a call of this kind, its prepared weights and the layout; None if none did."""
        return self._calls.get((x.shape, x.dtype, x.device, dtype, height, width, prefix_tokens, eps, choices))


def weights_dtype(x: Tensor, autocast: bool) -> torch.dtype:
    """The dtype for which weights are prepared: that of ``x``, or of autocast where it is on, on the CPU.

    On a GPU, the kernels for float32 tokens take float32 weights and round them themselves.
    """
    return torch.get_autocast_dtype("cpu") if autocast and not x.is_cuda else x.dtype


def prepared(folded: FoldedAdapter) -> Prepared:
    """Return the cache of ``folded``; a new one if there is none or the weights have changed."""
    kept: Prepared | None = folded.prepared
    if kept is None or not kept.is_current():
        kept = folded.prepared = Prepared(folded, guarded=False)
    return kept


def infer(
    backend: ModuleType,
    x: Tensor,
    folded: FoldedAdapter,
    layout: Layout,
    autocast: bool,
    choices: int | None,
    norm_eps: float | None,
) -> Any:
    """Compute the adapter without gradients by ``backend``, with cached prepared weights: out, or with ``norm_eps`` out
    and its LayerNorm.

    The call is remembered for later calls of the same kind, unless ``choices`` is None.
    """
    kept = prepared(folded)
    dtype = weights_dtype(x, autocast)
    made = kept.by(backend, folded, dtype, layout.grid)
    result = compute(backend, made, x, layout, autocast, norm_eps)
    if choices is not None:
        kept.remember(x, dtype, layout, choices, backend, made)
    return result


def compute(backend: ModuleType, made: Any, x: Tensor, layout: Layout, autocast: bool, norm_eps: float | None) -> Any:
    """Compute out, or with ``norm_eps`` out and its LayerNorm, with the prepared weights ``made``."""
    if norm_eps is None:
        return backend.infer(made, x, layout, autocast)
    if writes_norm(backend):
        return backend.infer_and_norm(made, x, layout, autocast, norm_eps)
    out = backend.infer(made, x, layout, autocast)
    return out, row_norm(out, norm_eps)


def row_norm(x: Tensor, eps: float) -> Tensor:
    """The LayerNorm of tokens (B, N, D) without gain and bias."""
    return F.layer_norm(x, x.shape[-1:], eps=eps)


def writes_norm(backend: ModuleType) -> bool:
    """Whether a backend has kernels that write the LayerNorm of the adapter's result beside it."""
    return hasattr(backend, "infer_and_norm")


def guard(folded: FoldedAdapter) -> FoldedAdapter:
    """Declare that the weights in ``folded`` never change, and return ``folded``.

    If the weights change nevertheless, the owner must make a new object.
    """
    folded.prepared = Prepared(folded, guarded=True)
    return folded


def is_captured(t: Tensor) -> bool:
    """Whether a CUDA graph is being captured on the GPU of ``t``.

    Tensors that are made during a capture have no values before a replay, so they are not cached. Cached tensors may be
    freed before a replay, so a capture does not use them.
    """
    return t.is_cuda and torch.cuda.is_current_stream_capturing()


def wait_for(t: Tensor) -> None:
    """Wait until the GPU has computed ``t``, because calls on other streams will read it."""
    if t.is_cuda:
        torch.cuda.current_stream(t.device).synchronize()


def _has_equal_sides(t: Tensor) -> bool:
    """Whether ``t`` has two equal sides larger than 1, so that a transpose of it has the same shape."""
    sides = [side for side in t.shape if side > 1]
    return len(set(sides)) < len(sides)
