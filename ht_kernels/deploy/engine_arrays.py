"""The memory of an engine without torch, by cuda-python: arrays come in and go out through pinned memory."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ht_kernels.errors import BackendError
from ht_kernels.packages import import_package

if TYPE_CHECKING:
    from .engine_runtime import Described

Array = NDArray[Any]


class ArrayMemory:
    """A :class:`ht_kernels.deploy.engine_runtime.Memory` on the current GPU of CUDA.

    A run ends when its results are there.

    Raises:
        InputError: cuda-python is not installed.
        BackendError: CUDA refuses something, such as memory.
    """

    on_tensors = False

    def __init__(self, frames: Described, outputs: Sequence[Described]) -> None:
        self._cuda = import_package("cuda.bindings.runtime", "an engine without torch needs cuda-python", "cuda-python")
        self._index = self._ask("cudaGetDevice")
        self.device = f"cuda:{self._index}"
        self._stream = self._own(
            "cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking, free="cudaStreamDestroy"
        )
        self._host: dict[str, Array] = {}
        self.addresses: dict[str, int] = {}
        for name, shape, kind in (frames, *outputs):
            size = int(np.prod(shape)) * np.dtype(kind).itemsize
            self.addresses[name] = self._own("cudaMalloc", size, free="cudaFree")
            pinned = (ctypes.c_uint8 * size).from_address(self._own("cudaMallocHost", size, free="cudaFreeHost"))
            self._host[name] = np.ctypeslib.as_array(pinned).view(kind).reshape(shape)
        self._frames = frames[0]

    def run(self, frames: Array, execute: Callable[[tuple[int, ...], int], None]) -> list[Array]:
        self._ask("cudaSetDevice", self._index)  # every thread has its own
        host = {name: array[: len(frames)] for name, array in self._host.items()}
        staged = host.pop(self._frames)
        staged[...] = frames
        to = self._cuda.cudaMemcpyKind
        try:
            self._copy(self.addresses[self._frames], staged.ctypes.data, staged.nbytes, to.cudaMemcpyHostToDevice)
            execute(frames.shape, int(self._stream))
            for name, array in host.items():
                self._copy(array.ctypes.data, self.addresses[name], array.nbytes, to.cudaMemcpyDeviceToHost)
        finally:
            self.synchronize()
        return [array.copy() for array in host.values()]

    def synchronize(self) -> None:
        self._ask("cudaStreamSynchronize", self._stream)

    def _copy(self, target: int, source: int, size: int, kind: Any) -> None:
        self._ask("cudaMemcpyAsync", target, source, size, kind, self._stream)

    def _own(self, make: str, argument: int, free: str) -> Any:
        """Make a stream or memory that goes with this object."""
        made = self._ask(make, argument)
        weakref.finalize(self, getattr(self._cuda, free), made)
        return made

    def _ask(self, function: str, *arguments: Any) -> Any:
        """Call a function of CUDA and return what it gives beside the error code, if anything.

        Raises:
            BackendError: the code is that of an error.
        """
        code, *given = getattr(self._cuda, function)(*arguments)
        if code != self._cuda.cudaError_t.cudaSuccess:
            words = self._cuda.cudaGetErrorString(code)[1].decode()
            raise BackendError(f"CUDA refuses {function}: {words}")
        return given[0] if given else None
