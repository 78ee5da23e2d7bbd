"""One interface for every way to run a model, best first: TensorRT, CUDA graph, OpenVINO, ONNX Runtime, CPU."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ht_kernels import environment
from ht_kernels.clip.htclip import HTCLIPConfig
from ht_kernels.distance_scale import NOT_CALIBRATED, DistanceScale
from ht_kernels.errors import BackendError, InputError
from ht_kernels.files import read_whole, why

from .batch import batch_range
from .cache import cached
from .engine import gpu_target
from .folded import FoldedHTCLIP
from .manifest import Manifest, manifest_of, read_manifest, sha256_of_files
from .openvino_runtime import DEVICES, OpenVinoRuntime, check_device
from .places import described_files, is_exported
from .runtimes import EngineRuntime, FoldedRuntime, GraphRuntime, OnnxRuntime, Runtime, runs_here, why_not_here
from .saturation import SATURATES, saturates

RUNTIMES = ("tensorrt", "cuda_graph", "openvino", "onnxruntime", "cpu")
"""The names of the runtimes, best first."""

_PRECISIONS = ("fp32", "fp16", "bf16")
_WARM_UP = 2
_log = logging.getLogger("ht_kernels")


class Session:
    """Runs a model on the best of :data:`RUNTIMES` that can run it; :meth:`open` makes it.

    ``session(frames)`` takes frames (B, C, H, W) uint8 with values 0 to 255, where B is in the range ``batch``. It
    returns logits float32, (B, K, H, W) for segmentation or (B, K) for classification; with ``output="grid"`` logits
    (B, K, h, w) on the patch grid; masks (B, H, W) uint8, if the model was exported with ``output="mask"``; or
    embeddings (B, E) float32, for a contrastive model. The result is on the device that computed it, and no later call
    overwrites it. If ``familiarity`` is not None, ``session.with_distance(frames)`` also returns the distances (B,)
    float32 of the frames from the training images.

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
        zeros = torch.zeros(self.batch[1], *self.frame_shape, dtype=torch.uint8)
        for _ in range(_WARM_UP):
            run(zeros)
            if self.familiarity is not None:
                run.with_distance(zeros)

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
            runtime: the one of :data:`RUNTIMES` to use; None for the best that can run the model, or for ``openvino``
                where ``device`` or ``precision`` is given.
            batch: for a folded model: the batch size, or (smallest, usual, largest); None for 1. A file has its own.
            device: for OpenVINO: ``CPU``, ``GPU`` (Intel's) or ``NPU``; None for the CPU.
            precision: of the matrix products of a folded model in OpenVINO: ``fp32``, or ``fp16`` or ``bf16`` where the
                device computes in it; None for ``fp32``. A file has its own.
            output: for a folded segmentation model: ``grid`` for logits on the patch grid, which
                :func:`ht_kernels.functional.grid_to_mask` turns into masks of any size; None for the model's result.
            progress: called with the name of each phase of an engine's build.

        Raises:
            InputError: a file does not fit its manifest or the installed library, an argument is unknown or does not
                go with another, or ``output`` is not what the model gives.
            TypeError: ``model`` is neither a folded model nor a path.
            BackendError: the runtime asked for cannot run the model here, or no runtime can; the message says why.
        """
        if not isinstance(model, (FoldedHTCLIP, str, Path)):
            raise TypeError(
                f"model must be a folded model or the path of an exported file, got {type(model).__name__}: "
                "ht_kernels.fold makes a folded model"
            )
        if runtime is not None and runtime not in RUNTIMES:
            raise InputError(f"runtime must be one of {', '.join(RUNTIMES)}, got {runtime!r}")
        if device is not None or precision is not None:
            if runtime not in (None, "openvino"):
                raise InputError(f"device and precision are for the runtime openvino, got {runtime!r}")
            if precision is not None and not isinstance(model, FoldedHTCLIP):
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
        if isinstance(model, FoldedHTCLIP):
            if output not in (None, "grid") or (output == "grid" and model.config.task != "segmentation"):
                raise InputError(f"output must be None, or grid of a segmentation model, got {output!r}")
            facts = _facts_of_model(model, 1 if batch is None else batch, output)
            candidates = _candidates_of_model(model, facts, device, precision or "fp32", progress)
        else:
            path = Path(model)
            if not is_exported(path):
                raise InputError(
                    f"{path} has no manifest beside it, so it is not what ht-kernels export writes: export it, or pass "
                    "a checkpoint as a folded model, ht_kernels.fold(HTCLIP.from_checkpoint(...))"
                )
            manifest = manifest_of(path)
            if batch is not None:
                raise InputError(
                    f"batch is for a folded model, and {path} takes {_count(manifest.batch)} at once: leave it out, or "
                    "export the model with another"
                )
            contents = _read(path, manifest)
            facts = _facts_of_manifest(manifest)
            if output not in (None, facts["output"]):
                raise InputError(f"{path} gives {facts['output']}, and {output} was asked for: export it with that")
            candidates = _candidates_of_file(path, contents, manifest, device, progress)
        session = _open_first(cls, candidates, facts, runtime, isinstance(model, FoldedHTCLIP))
        on_cpu = session.runtime == "onnxruntime" or (session.runtime == "openvino" and device == "CPU")
        if not isinstance(model, FoldedHTCLIP) and manifest.precision == "int8" and on_cpu and saturates():
            _log.warning("session: %s", SATURATES)
        return session

    def __call__(self, frames: Tensor) -> Tensor:
        """Return the logits, masks or embeddings of frames, as the class describes.

        Raises:
            InputError: the frames do not have the shape that the model takes.
            TypeError: the frames are no tensor, or not uint8.
        """
        self._check(frames)
        return self._run(frames)

    def with_distance(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a call returns, and the distances (B,) float32 of the frames from the training images.

        Both come from one run of the model and lie on the same device.

        Raises:
            InputError, TypeError: as for a call; InputError also if ``familiarity`` is None.
        """
        if self.familiarity is None:
            raise InputError(NOT_CALIBRATED)
        self._check(frames)
        return self._run.with_distance(frames)

    def _check(self, frames: Tensor) -> None:
        if not isinstance(frames, Tensor):
            raise TypeError(
                f"frames must be a uint8 tensor, got {type(frames).__name__}: torch.from_numpy makes one of an array"
            )
        low, _, high = self.batch
        if frames.dim() != 4 or tuple(frames.shape[1:]) != self.frame_shape or not low <= len(frames) <= high:
            wanted = ", ".join(map(str, self.frame_shape))
            raise InputError(f"frames must have shape ({_count(self.batch)}, {wanted}), got {tuple(frames.shape)}")
        if frames.dtype != torch.uint8:
            raise TypeError(f"frames must be uint8, got {frames.dtype}")


_Candidates = dict[str, Callable[[], Runtime]]


def _open_first(
    cls: type[Session], candidates: _Candidates, facts: dict[str, Any], runtime: str | None, folded: bool
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
            _log.info("session: %s is not used: %s", name, absent)
            continue
        try:
            session = cls(name, make(), facts, refused)
        except (InputError, BackendError, TypeError, torch.OutOfMemoryError) as error:
            if runtime is not None or len(candidates) == 1:
                raise
            refused[name] = str(error)
            _log.warning("session: %s is not used: %s", name, error)
            continue
        _log.info("session: running on %s", name)
        return session
    raise BackendError("nothing here runs this model: " + "; ".join(f"{k}: {v}" for k, v in refused.items()))


def _candidates_of_model(
    folded: FoldedHTCLIP,
    facts: dict[str, Any],
    device: str,
    precision: str,
    progress: Callable[[str], None] | None,
) -> _Candidates:
    batch, output = facts["batch"], facts["output"]

    def engine() -> Runtime:
        from .onnx import export_onnx

        gpu_target()  # raises if there is no GPU, before the export takes time
        try:
            folder = tempfile.TemporaryDirectory()
        except OSError as error:
            raise InputError(f"there is no place for the exported model: {why(error)}; TMPDIR names another") from error
        with folder as name:
            path = Path(name) / "model.onnx"
            return _cached_engine(path, export_onnx(folded, path, batch=batch, output=output), progress)

    def openvino() -> Runtime:
        from .onnx import onnx_in_memory

        check_device(device, precision)  # before the export takes time
        content, manifest = onnx_in_memory(folded, precision, batch, output)
        return OpenVinoRuntime([content], manifest, device)

    def onnxruntime() -> Runtime:
        from .onnx import onnx_in_memory

        return OnnxRuntime(*onnx_in_memory(folded, "fp32", batch, output))

    size = folded.grid if output == "grid" else None
    return {
        "tensorrt": engine,
        "cuda_graph": lambda: GraphRuntime(folded, size),
        "openvino": openvino,
        "onnxruntime": onnxruntime,
        "cpu": lambda: FoldedRuntime(folded, size),
    }


def _candidates_of_file(
    path: Path,
    contents: Sequence[bytes],
    manifest: Manifest,
    device: str,
    progress: Callable[[str], None] | None,
) -> _Candidates:
    if manifest.kind == "onnx":
        return {
            "tensorrt": lambda: _cached_engine(path, manifest, progress),
            "openvino": lambda: OpenVinoRuntime(contents, manifest, device),
            "onnxruntime": lambda: OnnxRuntime(contents[0], manifest),
        }
    if manifest.kind == "openvino":
        return {"openvino": lambda: OpenVinoRuntime(contents, manifest, device)}
    if manifest.kind not in ("tensorrt", "tensorrt_rtx"):
        raise InputError(f"the manifest of {path} is of kind {manifest.kind!r}, which a session cannot run")
    return {"tensorrt": lambda: EngineRuntime(contents[0], manifest)}


def _cached_engine(onnx: Path, manifest: Manifest, progress: Callable[[str], None] | None) -> EngineRuntime:
    """The engine for an ONNX file and this GPU. It is taken from the cache, or built and put there."""
    from .engine import build_engine

    target = gpu_target()
    version = environment.version("tensorrt_rtx")
    key = {**asdict(manifest), "file": "", "targets": [target], "tensorrt_rtx": version}

    def make(folder: Path) -> None:
        _log.warning("session: building an engine for %s, once", target)
        build_engine(onnx, folder / "model.engine", targets=[target], progress=progress)

    def good(folder: Path) -> bool:
        try:
            return runs_here(read_manifest(folder / "model.engine.json"))
        except InputError:
            return False

    folder = cached(key, make, good)
    built = read_manifest(folder / "model.engine.json")
    return EngineRuntime(_read(folder / "model.engine", built)[0], built)


def _read(path: Path, manifest: Manifest) -> list[bytes]:
    """Read what a manifest describes and check its hash.

    The returned bytes, not the files, are what runs, so the check holds for them.
    """
    contents = [read_whole(part, "the file") for part in described_files(path)]
    if sha256_of_files(contents) != manifest.sha256:
        raise InputError(f"{path} is not the file that its manifest describes; export the model again")
    return contents


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


def _facts_of_model(folded: FoldedHTCLIP, batch: int | tuple[int, int, int], output: str | None) -> dict[str, Any]:
    config = folded.config
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
