"""The runtimes of a session: an engine, a CUDA graph, ONNX Runtime, or the folded model itself.

OpenVINO has a file of its own, ``openvino_runtime.py``.

Each takes frames (B, C, H, W) uint8 of the manifest's shape, from any device. A call returns logits, masks or
embeddings, and ``with_distance`` returns beside them the distances (B,) float32 of a calibrated model, in tensors that
no later call overwrites. Any number of threads may call a runtime. The runtime for engines follows TensorRT's
documented interface, but no GPU has run it yet.
"""

from __future__ import annotations

import importlib.util
import threading
import weakref
from abc import ABC, abstractmethod
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ht_kernels import environment
from ht_kernels.errors import BackendError, InputError, reason
from ht_kernels.packages import import_package

from .engine import gpu_target, import_runtime, load_plugin
from .folded import FoldedHTCLIP
from .graph import GraphRunner
from .manifest import Manifest
from .static_input import StaticInput

_TYPES = {"uint8": torch.uint8, "float32": torch.float32}
_PACKAGES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
_TAKE_ONNX = ("tensorrt", "openvino", "onnxruntime")


class Runtime(Protocol):
    """What every runtime offers.

    Attributes:
        device: where it runs: ``cpu``, torch's name of an NVIDIA GPU such as ``cuda:0``, ``intel gpu`` or ``npu``.
    """

    device: str

    def __call__(self, frames: Tensor) -> Tensor:
        """Return the results of frames."""

    def with_distance(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return the results of frames and their distances; only for a calibrated model."""


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


def why_not_here(runtime: str, folded: bool) -> str | None:
    """Why a runtime cannot run a folded model, or else a file, as the GPU or a package is missing; None if it may."""
    if runtime in ("tensorrt", "cuda_graph") and not torch.cuda.is_available():
        return "there is no NVIDIA GPU"
    name = _PACKAGES.get(runtime)
    if name is not None and importlib.util.find_spec(runtime) is None:
        return f"{name} is not installed: pip install {runtime}"
    if folded and runtime in _TAKE_ONNX and importlib.util.find_spec("onnx") is None:
        return "a checkpoint is converted by onnx, which is not installed: pip install onnx"
    return None


def import_onnxruntime() -> Any:
    """Import ONNX Runtime and return it.

    Raises:
        InputError: it is not installed or cannot be imported.
    """
    return import_package("onnxruntime", "this needs ONNX Runtime", "onnxruntime")


class FileRuntime(ABC):
    """A runtime of a file, which computes all outputs of the file in any case."""

    def __call__(self, frames: Tensor) -> Tensor:
        return self._run(frames)[0]

    def with_distance(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        result, distances = self._run(frames)
        return result, distances

    @abstractmethod
    def _run(self, frames: Tensor) -> list[Tensor]:
        """All outputs of the file, in its order."""


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
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # TensorRT synchronises the default one
        device = self._stream.device
        self.device = str(device)
        with torch.cuda.stream(self._stream):
            self._input = StaticInput(_largest(manifest, manifest.input_shape), torch.uint8, device)
            self._outputs = {
                name: torch.zeros(_largest(manifest, shape), dtype=_TYPES[kind], device=device)
                for name, shape, kind in manifest.outputs
            }
        for name, tensor in {manifest.input_name: self._input.frames, **self._outputs}.items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        # Only one thread at a time may use a context. The lock is held while a call is queued; on the GPU, the stream
        # runs the calls one after the other. A context per thread would need the engine's memory once per thread.
        self._lock = threading.Lock()
        weakref.finalize(self, self._stream.synchronize)  # a queued call still uses this memory

    def _run(self, frames: Tensor) -> list[Tensor]:
        manifest, stream = self._manifest, self._stream
        with self._lock, torch.cuda.device(stream.device):
            caller = torch.cuda.current_stream()
            outputs = [output[: len(frames)] for output in self._outputs.values()]
            results = [torch.empty_like(output) for output in outputs]
            stream.wait_stream(caller)
            try:
                with torch.cuda.stream(stream):
                    self._input.fill(frames)
                    ready = self._context.set_input_shape(manifest.input_name, tuple(frames.shape))
                    if not (ready and self._context.execute_async_v3(stream.cuda_stream)):
                        raise BackendError(f"{manifest.kind} could not run {manifest.file}: see its messages")
                    for result, output in zip(results, outputs, strict=True):
                        result.copy_(output)
            finally:
                caller.wait_stream(stream)  # the stream may still read the caller's frames
        return results


class GraphRuntime:
    """The folded model on a GPU, as CUDA graphs."""

    def __init__(self, folded: FoldedHTCLIP, output_size: tuple[int, int] | None) -> None:
        self._runner, self._size = GraphRunner(folded), output_size
        self.device = str(folded.position.device)

    def __call__(self, frames: Tensor) -> Tensor:
        return self._runner(frames, self._size)

    def with_distance(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        return self._runner.with_distance(frames, self._size)


class OnnxRuntime(FileRuntime):
    """An ONNX file in ONNX Runtime on the CPU. Threads share ONNX Runtime's session, which is safe for that."""

    device = "cpu"

    def __init__(self, content: bytes, manifest: Manifest) -> None:
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that wait for each other sleep, and do not keep other programs from the cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no narrower common class
            raise InputError(f"ONNX Runtime cannot read {manifest.file}: {reason(error)}") from error
        declared = [(t.name, tuple(t.shape), t.type) for t in (*session.get_inputs(), *session.get_outputs())]
        tensors = [(manifest.input_name, manifest.input_shape, manifest.input_type), *manifest.outputs]
        expected = [(name, shape, f"tensor({kind.removesuffix('32')})") for name, shape, kind in tensors]
        if declared != expected:
            raise InputError(f"{manifest.file} takes and gives {declared}, and its manifest says {expected}")
        self._session, self._manifest = session, manifest

    def _run(self, frames: Tensor) -> list[Tensor]:
        outputs = self._session.run(None, {self._manifest.input_name: frames.cpu().numpy()})
        return [torch.from_numpy(output) for output in outputs]


class FoldedRuntime:
    """The folded model itself, on any device."""

    def __init__(self, folded: FoldedHTCLIP, output_size: tuple[int, int] | None) -> None:
        self._folded, self._size = folded, output_size
        self.device = str(folded.position.device)

    def __call__(self, frames: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = self._folded(frames.to(self._folded.position.device), self._size)
        return logits.clone()  # a tensor made in inference mode could not be written to outside it

    def with_distance(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            logits, distances = self._folded.with_distance(frames.to(self._folded.position.device), self._size)
        return logits.clone(), distances.clone()


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
