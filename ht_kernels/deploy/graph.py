"""The folded model as CUDA graphs: a frame costs one copy and one launch, however many kernels the model has."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ht_kernels.errors import BackendError
from ht_kernels.ops.dispatch import asked_for

from .folded import FoldedHTCLIP
from .static_input import StaticInput

WARM_UP = 3
"""Runs before a capture: libraries load, Triton tunes and a backend that fails gives way, none of which may happen
while a graph is captured."""

_capturing = threading.Lock()


class GraphRunner:
    """Runs a folded model on a GPU, captured as one CUDA graph per shape of frames.

    ``runner(frames, output_size=None)`` takes frames as the model does, on any GPU or in host memory, pinned or not,
    which the caller may refill at once. It returns the model's logits, or its masks, on the caller's current stream;
    they are the caller's own. A graph is captured at the first call of a shape, which takes as long as a few plain
    runs; :meth:`warm_up` does it ahead. It computes with the weights that the model had then: writing into them in
    place is seen, replacing them (``model.to``) needs a new runner.

    Safe to call from any number of threads, on any streams; they take turns, on the GPU too. While a graph is captured,
    no thread may wait for the whole GPU (``torch.cuda.synchronize``): CUDA refuses that, and the capture with it.

    Args:
        model: a folded model on a GPU.
        masks: return classes (B, H, W) uint8 for segmentation, (B,) for classification, in place of logits.
        max_graphs: shapes kept at a time; the one unused for longest goes, and is captured again when it comes back.

    Raises:
        BackendError: the model is not on a GPU.
        ValueError: ``max_graphs`` is less than 1, or ``masks`` are asked of a contrastive model.
    """

    def __init__(self, model: FoldedHTCLIP, *, masks: bool = False, max_graphs: int = 8) -> None:
        if max_graphs < 1:
            raise ValueError(f"max_graphs must be at least 1, got {max_graphs}")
        if masks and model.config.task == "contrastive":
            raise ValueError("masks=True needs a model with classes, and this contrastive one gives embeddings")
        device = model.position.device
        if device.type != "cuda":
            raise BackendError(f"CUDA graphs need a model on an NVIDIA GPU, and this one is on {device}")
        self.model, self.masks, self.max_graphs = model, masks, max_graphs
        self._graphs: OrderedDict[tuple[Any, ...], _Graph] = OrderedDict()
        self._lock = threading.Lock()
        self._device = device
        # cuBLAS keeps memory for each stream, which all graphs captured on it work in. So there is one stream, and no
        # two graphs run at once.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def __call__(self, frames: Tensor, output_size: tuple[int, int] | None = None) -> Tensor:
        """Logits or masks of frames; see the class.

        Raises:
            InputError, TypeError, ValueError: the frames are not what the model takes.
            BackendError: the graph could not be captured.
        """
        self.model.check(frames, output_size)
        with self._lock, torch.cuda.device(self._device):
            return self._graph(frames, output_size)(frames)

    def warm_up(self, shape: tuple[int, ...], output_size: tuple[int, int] | None = None) -> None:
        """Capture the graph for uint8 frames of ``shape`` now."""
        self(torch.zeros(shape, dtype=torch.uint8), output_size)

    def _graph(self, frames: Tensor, output_size: tuple[int, int] | None) -> _Graph:
        # What the model computes with is read when a graph is captured, so a change asks for another graph.
        settings = asked_for(), torch.get_float32_matmul_precision()
        key = tuple(frames.shape), frames.dtype, output_size, settings
        graph = self._graphs.pop(key, None)
        if graph is None:
            while len(self._graphs) >= self.max_graphs:
                self._graphs.popitem(last=False)
            weights = list(self.model.buffers())
            with _capture_alone():
                graph = _Graph(lambda x: self._compute(x, output_size), frames, weights, self._stream, self._done)
        self._graphs[key] = graph
        return graph

    def _compute(self, frames: Tensor, output_size: tuple[int, int] | None) -> Tensor:
        logits = self.model.compute(frames, output_size)
        return self.model.classes(logits) if self.masks else logits


@contextmanager
def _capture_alone() -> Iterator[None]:
    """Time for a warm-up and a capture.

    CUDA captures one graph at a time in a process, and refuses what a finalizer may do, or the warm-up of another
    graph, which waits for the whole GPU when Triton searches for tiles.
    """
    with _capturing:
        collects = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collects:
                gc.enable()


class _Graph:
    """One captured call, with its static input and output; made and called on the current device.

    Args:
        function: what to capture.
        like: frames of the shape and dtype to capture it for.
        weights: what the function reads besides, where they are now.
        stream: to capture on.
        done: recorded behind every replay of a graph of this stream.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        like: Tensor,
        weights: list[Tensor],
        stream: torch.cuda.Stream,
        done: torch.cuda.Event,
    ) -> None:
        self.done, self.weights = done, weights
        weakref.finalize(self, done.synchronize)  # a replay still to come uses all of this, on whatever stream
        device, caller = stream.device, torch.cuda.current_stream()
        self.input = StaticInput(tuple(like.shape), like.dtype, device)
        self.graph = torch.cuda.CUDAGraph()
        stream.wait_stream(caller)
        stream.wait_event(done)
        try:
            # A folded model has its precision from folding. torch.cuda.graph alone leaves its stream the current one
            # when the end of a capture fails.
            with torch.autocast("cuda", enabled=False), torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    function(self.input.frames)
                # Other threads, such as one that decodes video, go on calling CUDA meanwhile.
                with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
                    self.output = function(self.input.frames)
        except torch.OutOfMemoryError as error:
            raise BackendError(
                f"too little memory on {device} to capture a CUDA graph for frames {tuple(like.shape)}: use a smaller "
                "batch, or call the folded model itself"
            ) from error
        except RuntimeError as error:
            raise BackendError(
                f"the model could not be captured as a CUDA graph ({error}); call the folded model itself"
            ) from error
        caller.wait_stream(stream)

    def __call__(self, frames: Tensor) -> Tensor:
        result = torch.empty_like(self.output)  # not of the graph's memory, which the next replay writes
        torch.cuda.current_stream().wait_event(self.done)  # the last call may have been on another stream
        self.input.fill(frames)
        self.graph.replay()
        result.copy_(self.output)
        self.done.record()
        return result
