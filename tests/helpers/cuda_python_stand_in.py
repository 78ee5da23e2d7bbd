"""A stand-in for ``cuda.bindings.runtime`` of cuda-python, in host memory. What is queued runs at a synchronisation.

Functions take and return what those of cuda-python 13 do: a tuple of an error code and, if there is one, a value.
"""

from __future__ import annotations

import ctypes
import enum
import threading
from collections.abc import Callable
from functools import partial


class Code(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2


class Kind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class FakeStream:
    """``cudaStream_t``; its handle is what ``int`` gives."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.cuda_stream = cuda, id(self)
        self.queue: list[Callable[[], object]] = []

    def __int__(self) -> int:
        return self.cuda_stream

    def put(self, work: Callable[[], object]) -> None:
        self.queue.append(work)


class FakeCuda:
    """The module.

    Attributes:
        memory: what is allocated, by address: where it is, and what to keep alive for it.
        free_bytes: how much GPU memory is left.
    """

    cudaError_t, cudaMemcpyKind, cudaStreamNonBlocking = Code, Kind, 1

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.streams: list[FakeStream] = []
        self.memory: dict[int, tuple[str, ctypes.Array[ctypes.c_uint8]]] = {}
        self.free_bytes = 1 << 30
        self.current = threading.local()

    def cudaGetErrorString(self, error: Code) -> tuple[Code, bytes]:
        return Code.cudaSuccess, {Code.cudaErrorMemoryAllocation: b"out of memory"}.get(error, b"invalid argument")

    def cudaGetDevice(self) -> tuple[Code, int]:
        return Code.cudaSuccess, getattr(self.current, "device", 0)

    def cudaSetDevice(self, device: int) -> tuple[Code]:
        self.current.device = device
        return (Code.cudaSuccess,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Code, FakeStream]:
        assert flags == self.cudaStreamNonBlocking
        self.streams.append(FakeStream(self))
        return Code.cudaSuccess, self.streams[-1]

    def cudaStreamDestroy(self, stream: FakeStream) -> tuple[Code]:
        self.streams.remove(stream)
        return (Code.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: FakeStream) -> tuple[Code]:
        while stream.queue:
            stream.queue.pop(0)()
        return (Code.cudaSuccess,)

    def cudaMalloc(self, size: int) -> tuple[Code, int | None]:
        if size > self.free_bytes:
            return Code.cudaErrorMemoryAllocation, None
        self.free_bytes -= size
        return Code.cudaSuccess, self._allocate("device", size)

    def cudaMallocHost(self, size: int) -> tuple[Code, int]:
        return Code.cudaSuccess, self._allocate("host", size)

    def cudaFree(self, pointer: int) -> tuple[Code]:
        return self._free("device", pointer)

    def cudaFreeHost(self, pointer: int) -> tuple[Code]:
        return self._free("host", pointer)

    def cudaMemcpyAsync(self, target: int, source: int, count: int, kind: Kind, stream: FakeStream) -> tuple[Code]:
        places = ("device", "host") if kind is Kind.cudaMemcpyHostToDevice else ("host", "device")
        for pointer, place in zip((target, source), places, strict=True):
            if self.memory.get(pointer, ("",))[0] != place:
                self.faults.append(f"{pointer} is no {place} memory")
        stream.put(partial(ctypes.memmove, target, source, count))
        return (Code.cudaSuccess,)

    def _allocate(self, place: str, size: int) -> int:
        memory = (ctypes.c_uint8 * size)()
        self.memory[ctypes.addressof(memory)] = place, memory
        return ctypes.addressof(memory)

    def _free(self, place: str, pointer: int) -> tuple[Code]:
        if self.memory.pop(pointer)[0] != place:
            self.faults.append(f"{pointer} is no {place} memory")
        return (Code.cudaSuccess,)
