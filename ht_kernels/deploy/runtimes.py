"""What a session runs on: an engine, a CUDA graph, ONNX Runtime, or the folded model itself.

Each takes uint8 frames (B, C, H, W) of the manifest's shape and gives logits or masks that are the caller's own. The
engine's part follows TensorRT's documented interface; no GPU has run it yet.
"""

from __future__ import annotations

import importlib

import numpy as np
import torch
from torch import Tensor

from ht_kernels import environment
from ht_kernels.errors import BackendError, InputError

from .engine import gpu_target, load_plugin
from .folded import FoldedHTCLIP
from .graph import GraphRunner
from .manifest import Manifest

_TYPES = {"uint8": torch.uint8, "float32": torch.float32}


def check_engine(manifest: Manifest) -> None:
    """Whether the engine that a manifest describes runs here; nothing of the engine is read.

    Raises:
        InputError: it was built by another version than the one installed.
        BackendError: it was built for other GPUs, or there is none.
    """
    found, wanted = environment.version(manifest.kind), manifest.versions.get(manifest.kind)
    if found is None:
        raise InputError(f"{manifest.file} needs {manifest.kind} {wanted}: pip install {manifest.kind}")
    if found != wanted:
        raise InputError(f"{manifest.file} was built by {manifest.kind} {wanted}, and {found} is here: build it again")
    target = gpu_target()
    if target not in manifest.targets:
        built = ", ".join(manifest.targets)
        raise BackendError(f"{manifest.file} was built for {built}, and this GPU is {target}: build it for {target}")


def runs_here(manifest: Manifest) -> bool:
    """Whether the engine that a manifest describes is for the current GPU and the library installed."""
    try:
        check_engine(manifest)
    except (InputError, BackendError):
        return False
    return True


class EngineRuntime:
    """An engine of TensorRT or TensorRT for RTX with its input and output buffers on the current GPU."""

    def __init__(self, content: bytes, manifest: Manifest) -> None:
        check_engine(manifest)
        trt = importlib.import_module(manifest.kind)
        if manifest.plugin:
            load_plugin(trt, manifest.kind)
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._logger)  # must outlive the engine
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise InputError(f"{manifest.kind} cannot read {manifest.file}: build it again")
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        if sorted(names) != sorted((manifest.input_name, manifest.output_name)):
            raise InputError(f"{manifest.file} has the tensors {names}, and its manifest others: build it again")
        self._context = self._engine.create_execution_context()
        self._manifest = manifest
        largest = manifest.batch[2]
        self._input = _buffer(manifest.input_shape, manifest.input_type, largest, "cuda")
        self._output = _buffer(manifest.output_shape, manifest.output_type, largest, "cuda")
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # TensorRT synchronises the default one

    def __call__(self, frames: Tensor) -> Tensor:
        count, manifest, caller = len(frames), self._manifest, torch.cuda.current_stream()
        result = torch.empty_like(self._output[:count])
        self._stream.wait_stream(caller)
        with torch.cuda.stream(self._stream):
            self._input[:count].copy_(frames, non_blocking=True)
            self._context.set_input_shape(manifest.input_name, tuple(frames.shape))
            self._context.set_tensor_address(manifest.input_name, self._input.data_ptr())
            self._context.set_tensor_address(manifest.output_name, self._output.data_ptr())
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise BackendError(f"{manifest.kind} could not run {manifest.file}: see its messages")
            result.copy_(self._output[:count])
        caller.wait_stream(self._stream)
        return result


class GraphRuntime:
    """The folded model on a GPU as a CUDA graph."""

    def __init__(self, folded: FoldedHTCLIP) -> None:
        self._runner = GraphRunner(folded)

    def __call__(self, frames: Tensor) -> Tensor:
        return self._runner(frames)


class OnnxRuntime:
    """An ONNX file in ONNX Runtime on the CPU, its input and output bound to buffers made once."""

    def __init__(self, content: bytes, manifest: Manifest) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError("ONNX Runtime is not installed: pip install onnxruntime") from error

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common class but this
            raise InputError(
                f"ONNX Runtime cannot read {manifest.file}: {' '.join(str(error).split())[:200]}"
            ) from error
        declared = [(t.name, tuple(t.shape), t.type) for t in (*session.get_inputs(), *session.get_outputs())]
        types = [f"tensor({kind.removesuffix('32')})" for kind in (manifest.input_type, manifest.output_type)]
        expected = [
            (manifest.input_name, manifest.input_shape, types[0]),
            (manifest.output_name, manifest.output_shape, types[1]),
        ]
        if declared != expected:
            raise InputError(f"{manifest.file} takes and gives {declared}, and its manifest says {expected}")
        self._session, self._manifest = session, manifest
        self._input = _buffer(manifest.input_shape, manifest.input_type, manifest.batch[2], "cpu")
        self._output = _buffer(manifest.output_shape, manifest.output_type, manifest.batch[2], "cpu")

    def __call__(self, frames: Tensor) -> Tensor:
        manifest, inputs, outputs = self._manifest, self._input[: len(frames)], self._output[: len(frames)]
        inputs.copy_(frames)
        binding = self._session.io_binding()
        for bind, name, kind, buffer in (
            (binding.bind_input, manifest.input_name, manifest.input_type, inputs),
            (binding.bind_output, manifest.output_name, manifest.output_type, outputs),
        ):
            bind(name, "cpu", 0, np.dtype(kind), list(buffer.shape), buffer.data_ptr())
        self._session.run_with_iobinding(binding)
        return outputs.clone()


class FoldedRuntime:
    """The folded model as it is."""

    def __init__(self, folded: FoldedHTCLIP) -> None:
        self._folded = folded

    @torch.inference_mode()
    def __call__(self, frames: Tensor) -> Tensor:
        logits: Tensor = self._folded(frames.to(self._folded.position.device))
        return logits


def _buffer(shape: tuple[int | str, ...], kind: str, batch: int, device: str) -> Tensor:
    sizes = [batch if isinstance(size, str) else size for size in shape]
    if kind not in _TYPES:
        raise InputError(f"a session takes and gives uint8 or float32, and the manifest says {kind}")
    return torch.zeros(sizes, dtype=_TYPES[kind], device=device)
