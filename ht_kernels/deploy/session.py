"""One interface for every way to run a model, best first: TensorRT, CUDA graph, OpenVINO, ONNX Runtime, CPU.

To open an exported file neither needs torch nor imports it; ``folded_runtimes.py`` has what a folded model needs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from ht_kernels.distance_scale import NOT_CALIBRATED, DistanceScale
from ht_kernels.errors import BackendError, InputError, out_of_memory
from ht_kernels.log import log
from ht_kernels.packages import installed
from ht_kernels.predict_method import Predicts

from .engine_cache import cached_engine
from .engine_runtime import EngineRuntime
from .manifest import Manifest, manifest_of, read_described
from .openvino_runtime import DEVICES, OpenVinoRuntime
from .places import is_exported
from .runtimes import Array, Candidates, OnnxRuntime, Runtime, why_not_here
from .saturation import SATURATES, saturates

if TYPE_CHECKING:
    from torch import Tensor

    from ht_kernels.clip.htclip import HTCLIPConfig

    from .folded import FoldedHTCLIP

RUNTIMES = ("tensorrt", "cuda_graph", "openvino", "onnxruntime", "cpu")
"""The names of the runtimes, best first."""

_PRECISIONS = ("fp32", "fp16", "bf16")
_WARM_UP = 2


class Session(Predicts):
    """Runs a model on the best of :data:`RUNTIMES` that can run it; :meth:`open` makes it.

    ``session(frames)`` takes frames (B, C, H, W) uint8 with values 0 to 255, where B is in the range ``batch``, as an
    array of NumPy or as a tensor of torch, and returns what it was given, an array or a tensor. That holds logits
    float32, (B, K, H, W) for segmentation or (B, K) for classification; with ``output="grid"`` logits (B, K, h, w) on
    the patch grid; masks (B, H, W) uint8, if the model was exported with ``output="mask"``; or embeddings (B, E)
    float32, for a contrastive model. A tensor is on the device that computed it, and no later call overwrites a result.
    If ``familiarity`` is not None, ``session.with_distance(frames)`` also returns the distances (B,) float32 of the
    frames from the training images.

    Attributes:
        runtime: the name of the runtime that runs the model.
        device: where it runs, in words that reports use too: ``cpu``, torch's name of an NVIDIA GPU such as
            ``cuda:0``, ``intel gpu`` or ``npu``.
        refused: why each better runtime is not used, by name.
        batch: smallest, usual and largest B.
        frame_shape: (C, H, W).
        output: ``logits``, ``grid``, ``mask`` or ``embeddings``.
        task, num_classes, class_names: the task, the number of classes K and the class names of the model.
        config: the configuration of a folded model; None for a file.
        familiarity: the limit and the usual values of the distances; None for a model that gives none.
        grid: for segmentation, the patch grid (h, w) that logits are upsampled from; None for other tasks, and for a
            file of an older version.
    """

    def __init__(self, runtime: str, run: Runtime, facts: dict[str, Any], refused: dict[str, str]):
        self.runtime, self.refused = runtime, refused
        self.device: str = run.device
        self.batch: tuple[int, int, int] = facts["batch"]
        self.frame_shape: tuple[int, int, int] = facts["frame_shape"]
        self.output: str = facts["output"]
        self.task: str = facts["task"]
        self.num_classes: int = facts["num_classes"]
        self.class_names: tuple[str, ...] | None = facts["class_names"]
        self.config: HTCLIPConfig | None = facts.get("config")
        self.familiarity: DistanceScale | None = facts["familiarity"]
        self.grid: tuple[int, int] | None = facts["grid"]
        self._run = run
        zeros = np.zeros((self.batch[1], *self.frame_shape), np.uint8)
        for _ in range(_WARM_UP):
            self(zeros)
            if self.familiarity is not None:
                self.with_distance(zeros)

    @classmethod
    def open(
        cls,
        model: FoldedHTCLIP | str | Path,
        *,
        runtime: str | None = None,
        batch: int | tuple[int, int, int] | None = None,
        device: str | None = None,
        precision: str | None = None,
        output: str | None = None,
        compiled: bool = False,
        progress: Callable[[str], None] | None = None,
    ) -> Session:
        """Open a model and warm it up.

        A folded model can run on all of :data:`RUNTIMES`, an ONNX file on TensorRT for RTX, OpenVINO and ONNX Runtime,
        and an engine or an IR only on the library that built it. A runtime that cannot run the model is skipped, and
        the log says why: as a warning, or as information where its package or GPU is not here at all. If a folded model
        or an ONNX file runs on TensorRT for RTX, an engine for this GPU is built once, in float32 for a folded model,
        and kept in the user's cache, and so is what OpenVINO compiles for an Intel GPU or an NPU.

        Args:
            model: a folded model, or the path of a file written by ``ht-kernels export``, with its manifest beside it.
            runtime: the one of :data:`RUNTIMES` to use; None for the best that can run the model, for ``openvino``
                where ``device`` or ``precision`` is given, or for ``cuda_graph`` with ``compiled``.
            batch: for a folded model: the batch size, or (smallest, usual, largest); None for 1. A file has its own.
            device: for OpenVINO: ``CPU``, ``GPU`` (Intel's) or ``NPU``; None for the CPU.
            precision: of the matrix products of a folded model in OpenVINO: ``fp32``, or ``fp16`` or ``bf16`` where the
                device computes in it; None for ``fp32``. A file has its own.
            output: for a folded segmentation model: ``grid`` for logits on the patch grid, which
                :func:`ht_kernels.functional.grid_to_mask` turns into masks of any size; None for the model's result.
            compiled: have torch.compile compile a folded model on a GPU before it is captured as CUDA graphs, as
                :class:`ht_kernels.deploy.GraphRunner` does. That takes a minute or more per shape of frames, twice
                with distances; for the usual batch it is done before the session is returned. No GPU has run it.
            progress: called with the name of each phase of an engine's build.

        Raises:
            InputError: a file does not fit its manifest or the installed library, an argument is unknown or does not
                go with another, or ``output`` is not what the model gives.
            TypeError: ``model`` is neither a folded model nor a path.
            BackendError: the runtime asked for cannot run the model here, or no runtime can; the message says why.
        """
        of_folded = None if isinstance(model, (str, Path)) else _part_for_folded(model)
        if runtime is not None and runtime not in RUNTIMES:
            raise InputError(f"runtime must be one of {', '.join(RUNTIMES)}, got {runtime!r}")
        if compiled:
            if of_folded is None:
                raise InputError(
                    f"compiled is for a folded model, and {model} is a file: leave it out, or fold a model"
                )
            if runtime not in (None, "cuda_graph"):
                raise InputError(f"compiled is for the runtime cuda_graph, got {runtime!r}")
            runtime = "cuda_graph"
        if device is not None or precision is not None:
            if runtime not in (None, "openvino"):
                raise InputError(f"device and precision are for the runtime openvino, got {runtime!r}")
            if precision is not None and of_folded is None:
                raise InputError(f"precision is for a folded model, and {model} has its own: leave it out")
            if precision == "int8":
                raise InputError(
                    "a folded model does not run in int8, which needs frames to calibrate on: write a file with "
                    "ht-kernels export --precision int8, and open that"
                )
            if precision not in (None, *_PRECISIONS):
                raise InputError(f"precision must be one of {', '.join(_PRECISIONS)}, got {precision!r}")
            runtime = "openvino"
        if device not in (None, *DEVICES):
            raise InputError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
        device = device or "CPU"
        if of_folded is not None:
            facts = of_folded.facts_of_model(model, 1 if batch is None else batch, output)
            candidates = of_folded.candidates_of_model(model, facts, device, precision or "fp32", progress, compiled)
            return _open_first(cls, candidates, facts, runtime, True)
        path = Path(model)  # type: ignore[arg-type]  # mypy does not see that this is a path here
        if not is_exported(path):
            fold = "or pass a checkpoint as a folded model, ht_kernels.fold(HTCLIP.from_checkpoint(...))"
            raise InputError(
                f"{path} has no manifest beside it, so it is not what ht-kernels export writes: copy the manifest too, "
                f"or export it {fold if installed('torch') else 'where torch is installed'}"
            )
        manifest = manifest_of(path)
        if batch is not None:
            raise InputError(
                f"batch is for a folded model, and {path} takes {_count(manifest.batch)} at once: leave it out, or "
                "export the model with another"
            )
        contents = read_described(path, manifest)
        facts = _facts_of_manifest(manifest)
        if output not in (None, facts["output"]):
            raise InputError(f"{path} gives {facts['output']}, and {output} was asked for: export it with that")
        candidates = _candidates_of_file(path, contents, manifest, device, progress)
        session = _open_first(cls, candidates, facts, runtime, False)
        on_cpu = session.runtime == "onnxruntime" or (session.runtime == "openvino" and device == "CPU")
        if manifest.precision == "int8" and on_cpu and saturates():
            log.warning("session: %s", SATURATES)
        return session

    @overload
    def __call__(self, frames: Array) -> Array: ...
    @overload
    def __call__(self, frames: Tensor) -> Tensor: ...
    def __call__(self, frames: Any) -> Any:
        """Return the logits, masks or embeddings of frames, as the class describes.

        Raises:
            InputError: the frames do not have the shape that the model takes, or no values.
            TypeError: the frames are neither an array nor a tensor, or not uint8.
        """
        self._check(frames)
        return _like(frames, self._run(self._given(frames)))

    @overload
    def with_distance(self, frames: Array) -> tuple[Array, Array]: ...
    @overload
    def with_distance(self, frames: Tensor) -> tuple[Tensor, Tensor]: ...
    def with_distance(self, frames: Any) -> tuple[Any, Any]:
        """Return what a call returns, and the distances (B,) float32 of the frames from the training images.

        Both come from one run of the model and lie on the same device.

        Raises:
            InputError, TypeError: as for a call; InputError also if ``familiarity`` is None.
        """
        if self.familiarity is None:
            raise InputError(NOT_CALIBRATED)
        self._check(frames)
        result, distances = self._run.with_distance(self._given(frames))
        return _like(frames, result), _like(frames, distances)

    def _given(self, frames: Any) -> Any:
        """Frames as the runtime takes them."""
        if self._run.on_tensors == _is_tensor(frames):
            return frames
        return _tensor(frames) if self._run.on_tensors else frames.cpu().numpy()

    def _check(self, frames: Any) -> None:
        if not (isinstance(frames, np.ndarray) or _is_tensor(frames)):
            raise TypeError(f"frames must be a uint8 array or tensor, got {type(frames).__name__}")
        low, _, high = self.batch
        shape = tuple(frames.shape)
        if len(shape) != 4 or shape[1:] != self.frame_shape or not low <= len(frames) <= high:
            wanted = ", ".join(map(str, self.frame_shape))
            raise InputError(f"frames must have shape ({_count(self.batch)}, {wanted}), got {shape}")
        if str(frames.dtype).removeprefix("torch.") != "uint8":
            raise TypeError(f"frames must be uint8, got {frames.dtype}")
        if getattr(frames, "is_meta", False):
            raise InputError("frames are a tensor on 'meta', which has no values: pass one on another device")


def _is_tensor(value: Any) -> bool:
    """Whether a value is a tensor. Nobody has one who has not imported torch, so it is not imported for that."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _tensor(array: Array) -> Any:
    """A tensor of an array. They share memory, unless torch does not take it, as it is in another order."""
    import torch

    return torch.from_numpy(np.require(array, requirements=("C", "W")))


def _like(frames: Any, result: Any) -> Any:
    """A result as the same kind as the frames, a tensor or an array."""
    if _is_tensor(frames) == _is_tensor(result):
        return result
    return _tensor(result) if _is_tensor(frames) else result.cpu().numpy()


def _part_for_folded(model: object) -> ModuleType:
    """The module with the runtimes of folded models, which needs torch.

    Raises:
        TypeError: ``model`` is no folded model.
    """
    if installed("torch"):
        from . import folded_runtimes
        from .folded import FoldedHTCLIP

        if isinstance(model, FoldedHTCLIP):
            return folded_runtimes
    raise TypeError(
        f"model must be a folded model or the path of an exported file, got {type(model).__name__}: "
        "ht_kernels.fold makes a folded model"
    )


def _open_first(
    cls: type[Session], candidates: Candidates, facts: dict[str, Any], runtime: str | None, folded: bool
) -> Session:
    if runtime is not None and runtime not in candidates:
        raise BackendError(f"{runtime} was asked for by name, and this file runs on {' or '.join(candidates)} only")
    refused: dict[str, str] = {}
    for name, make in candidates.items():
        if runtime not in (None, name):
            continue
        absent = why_not_here(name, folded)
        if absent is not None and runtime is None and len(candidates) > 1:
            refused[name] = absent
            log.info("session: %s is not used: %s", name, absent)
            continue
        try:
            session = cls(name, make(), facts, refused)
        except Exception as error:
            skipped = isinstance(error, (InputError, BackendError, TypeError)) or out_of_memory(error)
            if not skipped or runtime is not None or len(candidates) == 1:
                raise
            refused[name] = str(error)
            log.warning("session: %s is not used: %s", name, error)
            continue
        log.info("session: running on %s", name)
        return session
    raise BackendError("nothing here runs this model: " + "; ".join(f"{k}: {v}" for k, v in refused.items()))


def _candidates_of_file(
    path: Path,
    contents: Sequence[bytes],
    manifest: Manifest,
    device: str,
    progress: Callable[[str], None] | None,
) -> Candidates:
    if manifest.kind == "onnx":
        return {
            "tensorrt": lambda: cached_engine(path, manifest, progress),
            "openvino": lambda: OpenVinoRuntime(contents, manifest, device),
            "onnxruntime": lambda: OnnxRuntime(contents[0], manifest),
        }
    if manifest.kind == "openvino":
        return {"openvino": lambda: OpenVinoRuntime(contents, manifest, device)}
    if manifest.kind == "torchscript":
        raise InputError(
            f"{path} is TorchScript, which is for programs without this package, and no session runs it: name the "
            "checkpoint that it was exported from, or an ONNX file"
        )
    if manifest.kind not in ("tensorrt", "tensorrt_rtx"):
        raise InputError(f"the manifest of {path} is of kind {manifest.kind!r}, which a session cannot run")
    return {"tensorrt": lambda: EngineRuntime(contents[0], manifest)}


def _count(batch: tuple[int, int, int]) -> str:
    low, _, high = batch
    return str(low) if low == high else f"{low} to {high}"


def _facts_of_manifest(manifest: Manifest) -> dict[str, Any]:
    return {
        "batch": manifest.batch,
        "frame_shape": manifest.input_shape[1:],
        "output": manifest.output_name,
        "task": manifest.task,
        "num_classes": manifest.num_classes,
        "class_names": manifest.class_names,
        "familiarity": manifest.familiarity,
        "grid": manifest.grid,
    }
