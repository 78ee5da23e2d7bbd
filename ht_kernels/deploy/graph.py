"""The folded model as CUDA graphs: a call costs one copy and one launch, however many kernels the model has."""

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

from ht_kernels.errors import BackendError, reason
from ht_kernels.ops.dispatch import asked_for

from .folded import FoldedHTCLIP
from .static_input import StaticInput
from .torch_compile import Function, compiled

WARM_UP = 3
"""The number of plain runs before a capture. In these runs libraries load, Triton tunes its kernels, and a backend that
fails is replaced by the next. None of this may happen while a graph is captured."""

_capturing = threading.Lock()


class GraphRunner:
    """Runs a folded model on a GPU, captured as one CUDA graph per shape of frames.

    ``runner(frames, output_size=None)`` takes the frames that the model takes, from any GPU or from host memory, pinned
    or not; the caller may refill host memory as soon as the call returns. The runner returns logits or masks on the
    caller's current stream, in a tensor that no later call overwrites.

    The first call with a new shape captures its graph, which takes as long as a few plain runs; :meth:`warm_up`
    captures it in advance. A graph refers to the weight tensors that the model had at that time. It sees values written
    into these tensors in place, but after the tensors are replaced (``model.to``) a new runner is needed.

    Any number of threads may call the runner, on any streams. The calls take turns, on the GPU too. While a graph is
    captured, no thread may wait for the whole GPU (``torch.cuda.synchronize``): CUDA would refuse the wait and end the
    capture with an error.

    With ``compiled``, the model goes through torch.compile before it is captured. That takes a minute or more per shape
    of frames, during which other calls and captures wait. The log says how long it took, or why the model is captured
    as it is: torch.compile does not work here, or its result differs from the model's by more than rounding explains.
    No GPU has run a compiled model yet.

    Args:
        model: a folded model on a GPU.
        masks: return the classes instead of the logits: (B, H, W) uint8 for segmentation, (B,) uint8 for
            classification.
        max_graphs: the number of graphs to keep. Beyond it, the graph unused for longest is dropped; if its shape comes
            again, it is captured again.
        compiled: compile the model first, as above. The default is False, because a live stream starts at once; a
            server or a long job, which wins the time back, asks for it, as ``ht-kernels predict --compile`` does.

    Raises:
        BackendError: the model is not on a GPU.
        ValueError: ``max_graphs`` is less than 1, or ``masks`` is true for a contrastive model.
    """

    def __init__(
        self, model: FoldedHTCLIP, *, masks: bool = False, max_graphs: int = 8, compiled: bool = False
    ) -> None:
        if max_graphs < 1:
            raise ValueError(f"max_graphs must be at least 1, got {max_graphs}")
        if masks and model.config.task == "contrastive":
            raise ValueError("masks=True needs a model with classes, and this contrastive one gives embeddings")
        device = model.position.device
        if device.type != "cuda":
            raise BackendError(f"CUDA graphs need a model on an NVIDIA GPU, and this one is on {device}")
        self.model, self.masks, self.max_graphs, self.compiled = model, masks, max_graphs, compiled
        self._graphs: OrderedDict[tuple[Any, ...], _Graph] = OrderedDict()
        self._lock = threading.Lock()
        self._device = device
        # cuBLAS keeps one workspace per stream, and all graphs captured on the stream share it. All graphs are captured
        # on this one stream, so no two of them may run at once.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def __call__(self, frames: Tensor, output_size: tuple[int, int] | None = None) -> Tensor:
        """Return the logits or masks of frames, as the class describes.

        Raises:
            InputError, TypeError, ValueError: the model does not accept the frames; see
                :meth:`ht_kernels.deploy.FoldedHTCLIP.forward`.
            BackendError: the graph could not be captured.
        """
        (result,) = self._run(frames, output_size, distance=False)
        return result

    @torch.no_grad()
    def with_distance(self, frames: Tensor, output_size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
        """Return the logits or masks of frames, and their distances (B,) from the training images.

        Raises:
            InputError, TypeError, ValueError, BackendError: as for a call; InputError also if the model has no
                ``familiarity``.
        """
        result, distances = self._run(frames, output_size, distance=True)
        return result, distances

    def warm_up(self, shape: tuple[int, ...], output_size: tuple[int, int] | None = None) -> None:
        """Capture the graph for uint8 frames of ``shape`` now."""
        self(torch.zeros(shape, dtype=torch.uint8), output_size)

    def _run(self, frames: Tensor, output_size: tuple[int, int] | None, distance: bool) -> tuple[Tensor, ...]:
        self.model.check(frames, output_size, distance)
        with self._lock, torch.cuda.device(self._device):
            return self._graph(frames, output_size, distance)(frames)

    def _graph(self, frames: Tensor, output_size: tuple[int, int] | None, distance: bool) -> _Graph:
        # A graph keeps the settings of the moment it was captured, so other settings need another graph.
        settings = asked_for(), torch.get_float32_matmul_precision()
        key = tuple(frames.shape), frames.dtype, output_size, distance, settings
        graph = self._graphs.pop(key, None)
        if graph is None:
            while len(self._graphs) >= self.max_graphs:
                self._graphs.popitem(last=False)
            weights = list(self.model.buffers())
            with _capture_alone():
                graph = _Graph(
                    lambda x: self._function(x, output_size, distance), frames, weights, self._stream, self._done
                )
        self._graphs[key] = graph
        return graph

    def _function(self, example: Tensor, output_size: tuple[int, int] | None, distance: bool) -> Function:
        """What is captured for frames like ``example``."""
        model = self.model

        def compute(frames: Tensor) -> tuple[Tensor, ...]:
            return model.compute(frames, output_size, distance)

        chosen = compiled(compute, example, model.position.dtype) if self.compiled else compute

        def with_classes(frames: Tensor) -> tuple[Tensor, ...]:
            logits, *distances = chosen(frames)
            return model.classes(logits), *distances

        return with_classes if self.masks else chosen


@contextmanager
def _capture_alone() -> Iterator[None]:
    """Keep other captures and the garbage collector away during a warm-up and a capture.

    CUDA captures one graph at a time in a process. During a capture it refuses calls that a finalizer may make, and the
    wait for the whole GPU that the warm-up of another graph makes when Triton searches for tiles.
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
    """One captured call with its static input and output. It is made and called on the current device.

    Args:
        make: gives the function to capture for frames like its argument, which are not black. It is called where the
            function is run and captured: in the same modes, on the same stream, with the same memory for frames.
        like: frames of the shape and dtype to capture the function for.
        weights: all other tensors that the function reads; the graph keeps them alive at their addresses.
        stream: the stream to capture on.
        done: an event, recorded after every replay of any graph captured on ``stream``.
    """

    def __init__(
        self,
        make: Callable[[Tensor], Function],
        like: Tensor,
        weights: list[Tensor],
        stream: torch.cuda.Stream,
        done: torch.cuda.Event,
    ) -> None:
        self.done, self.weights = done, weights
        weakref.finalize(self, done.synchronize)  # a queued replay still uses this memory
        device, caller = stream.device, torch.cuda.current_stream()
        self.input = StaticInput(tuple(like.shape), like.dtype, device)
        self.graph = torch.cuda.CUDAGraph()
        stream.wait_stream(caller)
        stream.wait_event(done)
        try:
            # Folding has already set the precision, so autocast is off. torch.cuda.stream restores the current stream
            # even if the end of the capture fails; torch.cuda.graph alone does not.
            with torch.autocast("cuda", enabled=False), torch.cuda.stream(stream):
                self.input.fill(_pattern(like))
                self.function = make(self.input.frames)  # a graph runs kernels and reads constants of a compiled one
                for _ in range(WARM_UP):
                    self.function(self.input.frames)
                # "thread_local" lets other threads, such as a video decoder, call CUDA during the capture.
                with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
                    self.outputs = self.function(self.input.frames)
        except torch.OutOfMemoryError as error:
            raise BackendError(
                f"too little memory on {device} to capture a CUDA graph for frames {tuple(like.shape)}: use a smaller "
                "batch, or call the folded model itself"
            ) from error
        except RuntimeError as error:
            raise BackendError(
                f"the model could not be captured as a CUDA graph ({reason(error)}); call the folded model itself"
            ) from error
        caller.wait_stream(stream)

    def __call__(self, frames: Tensor) -> tuple[Tensor, ...]:
        # Copies, because the next replay overwrites the graph's outputs.
        results = tuple(torch.empty_like(output) for output in self.outputs)
        torch.cuda.current_stream().wait_event(self.done)  # the previous call may have used another stream
        self.input.fill(frames)
        self.graph.replay()
        for result, output in zip(results, self.outputs, strict=True):
            result.copy_(output)
        self.done.record()
        return results


def _pattern(like: Tensor) -> Tensor:
    """Frames in host memory, like those given, with all kinds of values."""
    values = torch.arange(like.numel(), dtype=torch.int32).view(like.shape) % 251
    return values / 255 if like.is_floating_point() else values
