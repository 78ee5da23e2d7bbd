"""TensorRT and TensorRT for RTX as runtimes of a session. They follow TensorRT's interface; no GPU has run them yet.

The memory of an engine is torch's where torch is installed, and its results then stay on the GPU. Elsewhere it is
cuda-python's, and results are arrays.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ht_kernels import environment
from ht_kernels.errors import BackendError, InputError
from ht_kernels.packages import installed

from .engine import import_runtime, load_plugin
from .gpu import gpu_target
from .manifest import Manifest
from .runtimes import FileRuntime

Described = tuple[str, tuple[int, ...], str]
"""The name, shape and type of a tensor."""


class Memory(Protocol):
    """The frames and outputs of an engine on the GPU, for its largest batch, and the stream that it runs on.

    Attributes:
        device: torch's name of the GPU.
        on_tensors: as :class:`ht_kernels.deploy.runtimes.Runtime` has it.
        addresses: where each tensor lies on the GPU, by name.
    """

    device: str
    on_tensors: bool
    addresses: dict[str, int]

    def run(self, frames: Any, execute: Callable[[tuple[int, ...], int], None]) -> list[Any]:
        """Return the outputs of frames, in memory of their own.

        Only one thread at a time may call it.

        Args:
            frames: (B, C, H, W) uint8, where B is at most the largest batch.
            execute: queues a run of the engine, for the shape of the frames, on the stream with this handle.
        """

    def synchronize(self) -> None:
        """Wait until the GPU has done what was queued."""


def check_engine(manifest: Manifest) -> None:
    """Check whether this machine can run the engine that a manifest describes. The engine itself is not read.

    Raises:
        InputError: the runtime is not installed, or the engine was built by another version of it.
        BackendError: the engine was built for other GPUs, or this machine has no GPU.
    """
    found, wanted = environment.version(manifest.kind), manifest.versions.get(manifest.kind)
    if found is None:
        pip = manifest.kind.replace("_", "-")
        raise InputError(f"{manifest.file} needs {manifest.kind} {wanted}: pip install {pip}=={wanted}")
    if found != wanted:
        raise InputError(f"{manifest.file} was built by {manifest.kind} {wanted}, and {found} is here: build it again")
    target = gpu_target()
    if target not in manifest.targets:
        built = ", ".join(manifest.targets)
        raise BackendError(f"{manifest.file} was built for {built}, and this GPU is {target}: build it for {target}")


def runs_here(manifest: Manifest) -> bool:
    """Whether the engine that a manifest describes fits the current GPU and the installed library."""
    try:
        check_engine(manifest)
    except (InputError, BackendError):
        return False
    return True


class EngineRuntime(FileRuntime):
    """A TensorRT or TensorRT for RTX engine on the current GPU."""

    def __init__(self, content: bytes, manifest: Manifest) -> None:
        check_engine(manifest)
        trt = import_runtime(manifest.kind)
        if manifest.plugin:
            load_plugin(trt, manifest.kind)
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._logger)  # must outlive the engine
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise InputError(f"{manifest.kind} cannot read {manifest.file}: build it again")
        _check_tensors(trt, self._engine, manifest)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise BackendError(f"{manifest.kind} could not make ready to run {manifest.file}: see its messages")
        self._manifest = manifest
        self._memory = _memory(manifest)
        self.device, self.on_tensors = self._memory.device, self._memory.on_tensors
        for name, address in self._memory.addresses.items():
            self._context.set_tensor_address(name, address)
        # Only one thread at a time may use a context. The lock is held while a call is queued; on the GPU, the stream
        # runs the calls one after the other. A context per thread would need the engine's memory once per thread.
        self._lock = threading.Lock()
        weakref.finalize(self, self._memory.synchronize)  # a queued call still uses the context

    def _run(self, frames: Any) -> list[Any]:
        with self._lock:
            return self._memory.run(frames, self._execute)

    def _execute(self, shape: tuple[int, ...], stream: int) -> None:
        manifest = self._manifest
        ready = self._context.set_input_shape(manifest.input_name, shape)
        if not (ready and self._context.execute_async_v3(stream)):
            raise BackendError(f"{manifest.kind} could not run {manifest.file}: see its messages")


def _memory(manifest: Manifest) -> Memory:
    """The memory for the tensors of an engine with its largest batch."""
    given = (manifest.input_name, manifest.input_shape, manifest.input_type), *manifest.outputs
    frames, *outputs = [(name, _largest(manifest, shape), kind) for name, shape, kind in given]
    if installed("torch"):
        from .engine_tensors import TensorMemory

        return TensorMemory(frames, outputs)
    from .engine_arrays import ArrayMemory

    return ArrayMemory(frames, outputs)


def _largest(manifest: Manifest, shape: tuple[int | str, ...]) -> tuple[int, ...]:
    """A shape from the manifest, with the largest batch size."""
    return tuple(manifest.batch[2] if isinstance(size, str) else size for size in shape)


def _check_tensors(trt: Any, engine: Any, manifest: Manifest) -> None:
    """Raise InputError if an engine's inputs or outputs differ from its manifest, whose shapes size the buffers."""
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    declared = {
        name: (tuple(engine.get_tensor_shape(name)), np.dtype(trt.nptype(engine.get_tensor_dtype(name))).name)
        for name in names
    }
    expected = {
        name: (tuple(-1 if isinstance(size, str) else size for size in shape), kind)
        for name, shape, kind in ((manifest.input_name, manifest.input_shape, manifest.input_type), *manifest.outputs)
    }
    if declared != expected:
        raise InputError(
            f"{manifest.file} takes and gives {declared}, and its manifest says {expected}: build it again"
        )
