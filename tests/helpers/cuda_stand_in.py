"""A stand-in for GPUs in host memory: what is queued on a stream runs when somebody waits for it, and not before.

So what a real GPU would do late enough only now and then happens at every call: memory that is refilled, written by
another stream or freed too early gives a wrong result or an entry in ``faults``. Operators on the memory, but for
``copy_`` and ``clone``, run at once, as in a warm-up; in a capture they are recorded, and a replay runs them again.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_running = threading.RLock()


class CudaStandIn:
    """The functions of ``torch.cuda`` that deployment calls; :func:`stand_in` puts them there."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.streams: weakref.WeakSet[Stream] = weakref.WeakSet()
        self.thread = threading.local()
        self.default = {index: Stream(self, index) for index in range(2)}

    def index(self, device: Any = None) -> int:
        """Of a device given in any way; of the current one for None."""
        if isinstance(device, int):
            return device
        found = None if device is None else torch.device(device).index
        return getattr(self.thread, "device", 0) if found is None else found

    def current_stream(self, device: Any = None) -> Stream:
        index = self.index(device)
        return getattr(self.thread, "streams", {}).get(index, self.default[index])

    def device(self, device: Any) -> Current:
        return Current(self, self.index(device), None)

    def stream(self, stream: Stream) -> Current:
        return Current(self, stream.device.index, stream)

    def synchronize(self) -> None:
        for stream in list(self.streams):
            stream.synchronize()


class Current:
    """``torch.cuda.device``, or ``torch.cuda.stream``."""

    def __init__(self, cuda: CudaStandIn, index: int, stream: Stream | None) -> None:
        self.cuda, self.index, self.stream = cuda, index, stream

    def __enter__(self) -> None:
        thread = self.cuda.thread
        self.before = self.cuda.index(), self.cuda.current_stream(self.index)
        thread.device = self.index
        if self.stream is not None:
            thread.streams = {**getattr(thread, "streams", {}), self.index: self.stream}

    def __exit__(self, *error: object) -> None:
        self.cuda.thread.device, stream = self.before
        if self.stream is not None:
            self.cuda.thread.streams[self.index] = stream


class Stream:
    def __init__(self, cuda: CudaStandIn, device: Any = None) -> None:
        self.device = torch.device("cuda", cuda.index(device))
        self.cuda, self.cuda_stream = cuda, id(self)
        self.queue: deque[Callable[[], object]] = deque()
        cuda.streams.add(self)

    def put(self, work: Callable[[], object]) -> None:
        time.sleep(0)  # another thread comes in between
        self.queue.append(work)

    def run(self, until: Callable[[], bool]) -> None:
        with _running, torch.inference_mode():
            while self.queue and not until():
                self.queue.popleft()()

    def synchronize(self) -> None:
        self.run(lambda: False)

    def record_event(self) -> Event:
        event = Event(self.cuda)
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        event.wait(self)

    def wait_stream(self, other: Stream) -> None:
        self.wait_event(other.record_event())


class Event:
    def __init__(self, cuda: CudaStandIn) -> None:
        self.cuda, self.device = cuda, None
        self.reach: Callable[[], None] = lambda: None

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or self.cuda.current_stream()
        if self.device not in (None, stream.device):
            raise RuntimeError(f"Event device {self.device} does not match recording stream's device {stream.device}.")
        reached: list[bool] = []
        stream.put(lambda: reached.append(True))
        self.device, self.reach = stream.device, partial(stream.run, lambda: bool(reached))

    def wait(self, stream: Stream) -> None:
        stream.put(self.reach)

    def synchronize(self) -> None:
        self.reach()


class OnGpu(Tensor):
    """A tensor in memory of a GPU."""

    cuda: CudaStandIn
    device = property(lambda self: torch.device("cuda", 0))  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]

    def copy_(self, source: Tensor, non_blocking: bool = False) -> Tensor:  # type: ignore[override]
        if self.is_inference() and not torch.is_inference_mode_enabled():
            raise RuntimeError("Inplace update to inference tensor outside InferenceMode is not allowed.")
        late = isinstance(source, (OnGpu, Pinned))
        plain = source.as_subclass(Tensor) if late else source.detach().clone()  # the driver stages pageable memory
        stream = self.cuda.current_stream()
        stream.put(lambda: self.as_subclass(Tensor).copy_(plain))
        if not (non_blocking or isinstance(source, OnGpu)):
            stream.synchronize()
        return self

    def clone(self) -> Tensor:  # type: ignore[override]
        return torch.empty_like(self).copy_(self)


class Pinned(Tensor):
    """A tensor in memory of the host that a GPU reads when it comes to it."""


class Graph:
    def __init__(self) -> None:
        self.operators: list[tuple[Any, ...]] = []

    def replay(self) -> None:
        OnGpu.cuda.current_stream().put(partial(self._run, weakref.ref(self)))

    @staticmethod
    def _run(reference: weakref.ref[Graph]) -> None:
        graph = reference()
        if graph is None:
            OnGpu.cuda.faults.append("a graph was freed before its replay")
            return
        for function, args, kwargs, results in graph.operators:
            for kept, result in zip(tree_leaves(results), tree_leaves(function(*args, **kwargs)), strict=True):
                if isinstance(kept, Tensor) and kept.data_ptr() != result.data_ptr():
                    kept.as_subclass(Tensor).copy_(result)


class Capture(TorchDispatchMode):
    """``torch.cuda.graph``; as there, the stream stays the current one when the end of a capture fails."""

    fails = False
    under_way = 0

    def __init__(self, graph: Graph, stream: Stream, capture_error_mode: str) -> None:
        super().__init__()
        self.graph, self.current = graph, OnGpu.cuda.stream(stream)

    def __enter__(self) -> Capture:
        OnGpu.cuda.synchronize()
        self.current.__enter__()
        Capture.under_way += 1
        if Capture.under_way > 1:
            OnGpu.cuda.faults.append("two captures at a time")
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        Capture.under_way -= 1
        if Capture.fails:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        self.current.__exit__(*error)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = function(*args, **(kwargs or {}))
        self.graph.operators.append((function, args, kwargs or {}, results))
        return results


def _allocator(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def allocate(*args: Any, device: Any = None, pin_memory: bool = False, **options: Any) -> Tensor:
        if pin_memory:
            return function(*args, **options).as_subclass(Pinned)
        if device is not None and torch.device(device).type == "cuda":
            return function(*args, **options).as_subclass(OnGpu)
        return function(*args, device=device, **options)

    return allocate


def stand_in(monkeypatch: pytest.MonkeyPatch) -> CudaStandIn:
    """Put a stand-in with two GPUs in the place of ``torch.cuda`` for a test."""
    cuda = CudaStandIn()
    OnGpu.cuda = cuda
    monkeypatch.setattr(torch.cuda, "Stream", partial(Stream, cuda))
    monkeypatch.setattr(torch.cuda, "Event", partial(Event, cuda))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    for name in ("current_stream", "device", "stream", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, getattr(cuda, name))
    for name in ("zeros", "empty"):
        monkeypatch.setattr(torch, name, _allocator(getattr(torch, name)))
    return cuda


def to_gpu(module: torch.nn.Module) -> Any:
    """The module with its buffers in memory of the stand-in."""
    return module._apply(lambda t: t.as_subclass(OnGpu))
