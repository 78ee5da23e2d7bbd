"""What backends made of folded weights, kept beside them: packed panels, cast matrices, addresses.

It hangs at the :class:`~ht_kernels.folding.FoldedAdapter` and dies with it. It is made again when one of the weights
was written in place or moved.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ht_kernels.backends import torch_private
from ht_kernels.backends.call import Layout
from ht_kernels.folding import FoldedAdapter, on_grid

_MOST_CALLS = 64
"""Shapes of calls that are remembered for one set of weights."""
_MOST_MADE = 16
"""Backends, dtypes and grids of a mask for which one set of weights is kept."""


class Stamp:
    """Tells whether tensors are as they were: not written in place, not given other memory.

    A tensor is known by its version, address and, where a transpose would have the same shape, strides. Its storage is
    held, so that the address is not used again. Tensors made in inference mode have no version, and those that a
    transform such as ``vmap`` makes have no address: with one of them nothing can be told.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        held = list(tensors)
        self.known = not torch_private.in_function_transform() and all(
            type(t) in (Tensor, nn.Parameter) and not t.is_inference() for t in held
        )
        self.tensors = held if self.known else []
        self.versions = torch_private.versions(self.tensors)
        self.addresses = [t.data_ptr() for t in self.tensors]
        squares = [t for t in self.tensors if _has_equal_sides(t)]
        self.squares = [t for t in squares if t.is_contiguous()]  # their transposes are not
        self.strides = [(t, t.stride()) for t in squares if not t.is_contiguous()]
        self.storages = [t.untyped_storage() for t in self.tensors]

    def holds(self) -> bool:
        """Whether all are as they were; False where that cannot be told."""
        return (
            self.known
            and torch_private.versions(self.tensors) == self.versions
            and list(map(Tensor.data_ptr, self.tensors)) == self.addresses
            and all(map(Tensor.is_contiguous, self.squares))
            and (not self.strides or all(t.stride() == strides for t, strides in self.strides))
        )


class Prepared:
    """What is kept of one set of folded weights.

    Args:
        folded: the weights.
        guarded: the owner sees to it that the weights are not written into, so that no call has to look.
    """

    def __init__(self, folded: FoldedAdapter, guarded: bool) -> None:
        self.stamp = None if guarded else Stamp(t for t in folded if t is not None)
        self._by: dict[tuple[Any, ...], Any] = {}
        self._calls: dict[tuple[Any, ...], tuple[ModuleType, Any, Layout]] = {}
        self._lock = threading.Lock()  # one thread at a time makes what calls need

    def is_current(self) -> bool:
        """Whether the weights are those that this was made from."""
        return self.stamp is None or self.stamp.holds()

    def by(self, backend: ModuleType, folded: FoldedAdapter, dtype: torch.dtype, grid: tuple[int, int]) -> Any:
        """What ``backend`` made of the weights for tokens of ``dtype``; of a mask, for a grid."""
        if is_captured(folded.up_weight):
            return backend.prepare(on_grid(folded, grid), dtype, grid)
        key = backend, dtype, None if folded.mask is None else grid
        made = self._by.get(key)
        if made is not None:
            return made
        with self._lock:
            made = self._by.get(key)  # another thread may have been here
            if made is None:
                made = backend.prepare(on_grid(folded, grid), dtype, grid)
                wait_for(folded.up_weight)
                if len(self._by) >= _MOST_MADE:
                    self._by.clear()
                self._by[key] = made
        return made

    def remember(self, x: Tensor, layout: Layout, choices: int, backend: ModuleType, made: Any) -> None:
        """``backend`` ran a call like this, with what it ``made``; ``choices`` counts the changes to what is chosen."""
        if is_captured(x):
            return
        if len(self._calls) >= _MOST_CALLS:
            self._calls.clear()
        self._calls[(x.shape, x.dtype, x.device, *layout, choices)] = backend, made, layout

    def recall(
        self, x: Tensor, height: int, width: int, prefix_tokens: int, eps: float, choices: int
    ) -> tuple[ModuleType, Any, Layout] | None:
        """The backend that ran a call like this one, what it made, and the layout; None when there was none."""
        return self._calls.get((x.shape, x.dtype, x.device, height, width, prefix_tokens, eps, choices))


def prepared(folded: FoldedAdapter) -> Prepared:
    """What is kept of ``folded``, or a new one where its weights have changed."""
    kept: Prepared | None = folded.prepared
    if kept is None or not kept.is_current():
        kept = folded.prepared = Prepared(folded, guarded=False)
    return kept


def infer(
    backend: ModuleType, x: Tensor, folded: FoldedAdapter, layout: Layout, autocast: bool, choices: int | None
) -> Tensor:
    """The adapter without gradients by ``backend``, on what is kept of the weights.

    It is remembered for calls like it, unless ``choices`` is None.
    """
    kept = prepared(folded)
    made = kept.by(backend, folded, x.dtype, layout.grid)
    out: Tensor = backend.infer(made, x, layout, autocast)
    if choices is not None:
        kept.remember(x, layout, choices, backend, made)
    return out


def guard(folded: FoldedAdapter) -> FoldedAdapter:
    """``folded``, from now on taken for unchanged: its owner makes another when it changes."""
    folded.prepared = Prepared(folded, guarded=True)
    return folded


def is_captured(t: Tensor) -> bool:
    """Whether a CUDA graph is being captured on the GPU of ``t``.

    What a capture makes has no values before a replay, so it is not kept. What is kept may be freed before a replay, so
    a capture does not use it.
    """
    return t.is_cuda and torch.cuda.is_current_stream_capturing()


def wait_for(t: Tensor) -> None:
    """Wait until a GPU has made ``t``, which calls on other streams will read."""
    if t.is_cuda:
        torch.cuda.current_stream(t.device).synchronize()


def _has_equal_sides(t: Tensor) -> bool:
    """Whether a transpose of ``t`` has the shape of ``t`` and is something else."""
    sides = [side for side in t.shape if side > 1]
    return len(set(sides)) < len(sides)
