"""What the runtimes of a session have in common, which of them can be here, and ONNX Runtime. Torch is not needed.

``openvino_runtime.py``, ``engine_runtime.py`` and ``folded_runtimes.py`` have the others.

Each takes frames (B, C, H, W) uint8 of the shape that the session checks. A call returns logits, masks or embeddings,
and ``with_distance`` returns beside them the distances (B,) float32 of a calibrated model, in memory that no later call
overwrites. Any number of threads may call a runtime.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ht_kernels import threads
from ht_kernels.errors import InputError, reason
from ht_kernels.packages import import_package, installed

from .gpu import capability
from .manifest import Manifest

Array = NDArray[np.generic]

_PACKAGES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
_TAKE_ONNX = ("tensorrt", "openvino", "onnxruntime")


class Runtime(Protocol):
    """What every runtime offers.

    Attributes:
        device: where it runs: ``cpu``, torch's name of an NVIDIA GPU such as ``cuda:0``, ``intel gpu`` or ``npu``.
        on_tensors: whether it takes and returns tensors of torch, from and on any device; if not, arrays of NumPy.
    """

    device: str
    on_tensors: bool

    def __call__(self, frames: Any) -> Any:
        """Return the results of frames."""

    def with_distance(self, frames: Any) -> tuple[Any, Any]:
        """Return the results of frames and their distances; only for a calibrated model."""


Candidates = dict[str, Callable[[], Runtime]]
"""What makes each runtime that can run a model, by name, best first."""


def why_not_here(runtime: str, folded: bool) -> str | None:
    """Why a runtime cannot run a folded model, or else a file, as the GPU or a package is missing; None if it may."""
    torch = installed("torch")
    if not torch and (folded or runtime in ("cuda_graph", "cpu")):
        return "a checkpoint needs torch, which is not installed"
    if runtime in ("tensorrt", "cuda_graph") and capability() is None:
        return "there is no NVIDIA GPU"
    if runtime == "tensorrt" and not torch and not installed("cuda.bindings"):
        return "an engine without torch needs cuda-python: pip install cuda-python"
    name = _PACKAGES.get(runtime)
    if name is not None and not installed(runtime):
        return f"{name} is not installed: pip install {runtime}"
    if folded and runtime in _TAKE_ONNX and not installed("onnx"):
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

    on_tensors = False

    def __call__(self, frames: Any) -> Any:
        return self._run(frames)[0]

    def with_distance(self, frames: Any) -> tuple[Any, Any]:
        result, distances = self._run(frames)
        return result, distances

    @abstractmethod
    def _run(self, frames: Any) -> list[Any]:
        """All outputs of the file, in its order."""


class OnnxRuntime(FileRuntime):
    """An ONNX file in ONNX Runtime on the CPU. Threads share ONNX Runtime's session, which is safe for that."""

    device = "cpu"

    def __init__(self, content: bytes, manifest: Manifest) -> None:
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads.usual()
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

    def _run(self, frames: Array) -> list[Array]:
        outputs: list[Array] = self._session.run(None, {self._manifest.input_name: frames})
        return outputs
