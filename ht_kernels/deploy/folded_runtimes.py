"""The runtimes of a folded model: CUDA graphs, the model itself, and those of files, for which it is exported first."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ht_kernels.errors import InputError
from ht_kernels.files import why

from .batch import batch_range
from .engine_cache import cached_engine
from .folded import FoldedHTCLIP
from .gpu import gpu_target
from .graph import GraphRunner
from .onnx import export_onnx, onnx_in_memory
from .openvino_runtime import OpenVinoRuntime, check_device
from .runtimes import Candidates, OnnxRuntime, Runtime
from .torch_compile import check_on_gpu


class GraphRuntime:
    """The folded model on a GPU, as CUDA graphs."""

    on_tensors = True

    def __init__(self, folded: FoldedHTCLIP, output_size: tuple[int, int] | None, compiled: bool) -> None:
        self._runner, self._size = GraphRunner(folded, compiled=compiled), output_size
        self.device = str(folded.position.device)

    def __call__(self, frames: Tensor) -> Tensor:
        return self._runner(frames, self._size)

    def with_distance(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        return self._runner.with_distance(frames, self._size)


class FoldedRuntime:
    """The folded model itself, on any device."""

    on_tensors = True

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


def candidates_of_model(
    folded: FoldedHTCLIP,
    facts: dict[str, Any],
    device: str,
    precision: str,
    progress: Callable[[str], None] | None,
    compiled: bool,
) -> Candidates:
    """What makes each runtime of a folded model, best first. The arguments are those of a session.

    Raises:
        InputError: ``compiled`` is true and the model is not on a GPU.
    """
    if compiled:
        check_on_gpu(folded.position.device)
    batch, output = facts["batch"], facts["output"]

    def engine() -> Runtime:
        gpu_target()  # raises if there is no GPU, before the export takes time
        try:
            folder = tempfile.TemporaryDirectory()
        except OSError as error:
            raise InputError(f"there is no place for the exported model: {why(error)}; TMPDIR names another") from error
        with folder as name:
            path = Path(name) / "model.onnx"
            return cached_engine(path, export_onnx(folded, path, batch=batch, output=output), progress)

    def openvino() -> Runtime:
        check_device(device, precision)  # before the export takes time
        content, manifest = onnx_in_memory(folded, precision, batch, output)
        return OpenVinoRuntime([content], manifest, device)

    def onnxruntime() -> Runtime:
        return OnnxRuntime(*onnx_in_memory(folded, "fp32", batch, output))

    size = folded.grid if output == "grid" else None
    return {
        "tensorrt": engine,
        "cuda_graph": lambda: GraphRuntime(folded, size, compiled),
        "openvino": openvino,
        "onnxruntime": onnxruntime,
        "cpu": lambda: FoldedRuntime(folded, size),
    }


def facts_of_model(folded: FoldedHTCLIP, batch: int | tuple[int, int, int], output: str | None) -> dict[str, Any]:
    """What a session says of a folded model, by the names of its attributes.

    Raises:
        InputError: ``batch`` or ``output`` does not fit.
    """
    config = folded.config
    if output not in (None, "grid") or (output == "grid" and config.task != "segmentation"):
        raise InputError(f"output must be None, or grid of a segmentation model, got {output!r}")
    return {
        "batch": batch_range(batch),
        "frame_shape": (1, *folded.image_size),
        "output": output or folded.result,
        "task": config.task,
        "num_classes": config.num_classes,
        "class_names": config.class_names,
        "config": config,
        "familiarity": None if folded.familiarity is None else folded.familiarity.scale,
        "grid": folded.grid if config.task == "segmentation" else None,
    }
