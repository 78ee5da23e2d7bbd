"""A stand-in for TensorRT, on one of those for CUDA: ``cuda_stand_in.py`` for torch's, ``cuda_python_stand_in.py``."""

from __future__ import annotations

import ctypes
import math
import time
import weakref
from functools import partial
from typing import Any, ClassVar

import numpy as np

from helpers.cuda_stand_in import OnGpu
from helpers.small_towers import IMAGE


class FakeTensorRT:
    """What a session calls of TensorRT, on the stand-in for CUDA.

    The engine gives negatives and, as distance of a frame, its first pixel.
    """

    Logger = type("Logger", (), {"ERROR": 0, "__init__": lambda self, level: None})
    nptype = staticmethod(lambda dtype: dtype)

    class Runtime:
        def __init__(self, logger: object) -> None: ...

        def deserialize_cuda_engine(self, content: bytes) -> FakeEngine | None:
            return None if content == b"broken" else FakeEngine()


class FakeEngine:
    largest = 2
    memory = True
    shapes: ClassVar = {"frames": (-1, 1, IMAGE, IMAGE), "mask": (-1, IMAGE, IMAGE)}

    @property
    def num_io_tensors(self) -> int:
        return len(self.shapes)

    def get_tensor_name(self, index: int) -> str:
        return list(self.shapes)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def get_tensor_dtype(self, name: str) -> type:
        return np.float32 if name == "distance" else np.uint8

    def create_execution_context(self) -> FakeContext | None:
        return FakeContext() if self.memory else None


class FakeContext:
    """For one thread at a time, and not to be freed before the stream has come to what was asked of it."""

    def __init__(self) -> None:
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.count = math.prod(shape)
        time.sleep(0.001)
        return shape[0] <= FakeEngine.largest

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, handle: int) -> bool:
        (stream,) = (s for s in OnGpu.cuda.streams if s.cuda_stream == handle)
        stream.put(partial(self._run, weakref.ref(self), stream, self.count, *self.addresses.values()))
        return True

    @staticmethod
    def _run(
        reference: weakref.ref[FakeContext], stream: Any, count: int, source: int, target: int, *distances: int
    ) -> None:
        if reference() is None:
            stream.cuda.faults.append("a context was freed before it ran")
        data = ctypes.string_at(source, count)
        ctypes.memmove(target, bytes(255 - value for value in data), count)
        for address in distances:
            first = np.array(list(data[:: IMAGE * IMAGE]), np.float32)
            ctypes.memmove(address, first.tobytes(), first.nbytes)
