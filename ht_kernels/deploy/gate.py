"""The gate: it runs an exported model on real frames and compares the results with the folded model in torch.

Every output that the file declares is compared with what torch gives a user; for logits that includes the classes.
Logits on the patch grid are upsampled to the image's size first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ht_kernels.classes import classes_of
from ht_kernels.dice import dice
from ht_kernels.errors import InputError, reason
from ht_kernels.files import read_whole, write_whole

from .folded import FoldedHTCLIP
from .manifest import DISTANCE, manifest_path, read_manifest, sha256
from .session import Session

if TYPE_CHECKING:
    from onnx import ModelProto

Array = NDArray[Any]

_FRAMES_AT_ONCE = 4
"""Batch size for the folded model, and for ONNX files with a dynamic batch."""


@dataclass(frozen=True)
class Thresholds:
    """The limits that an exported model must keep.

    Attributes:
        cosine: smallest allowed cosine similarity of the logits of any frame.
        relative: largest allowed error of a logit, relative to the largest logit of the frame.
        agreement: smallest allowed share of pixels (for classification, frames) that get the same class as in torch,
            on average over frames.
        dice: smallest allowed Dice coefficient of the masks, on average over frames.
        distance: largest allowed relative error of a frame's distance from the training images.
        stream: relative L2 error of the residual stream above which a place counts as the origin of an error. It does
            not decide whether the model passes.
    """

    cosine: float
    relative: float
    agreement: float
    dice: float
    distance: float
    stream: float


THRESHOLDS = {
    "fp32": Thresholds(cosine=0.999999, relative=1e-4, agreement=0.9999, dice=0.999, distance=1e-4, stream=1e-5),
    "fp16": Thresholds(cosine=0.999, relative=1e-2, agreement=0.99, dice=0.98, distance=1e-2, stream=5e-3),
    "bf16": Thresholds(cosine=0.99, relative=1e-1, agreement=0.98, dice=0.95, distance=5e-2, stream=5e-2),
}
"""The default limits, by precision. They are five to ten times the errors measured on a real clip with ViT-Tiny and
ViT-B/16 with random weights (fp16: relative 1.4e-3, stream 8e-4; bf16: relative 1.7e-2, stream 6e-3), because trained
towers have larger values."""


@dataclass(frozen=True)
class Report:
    """The comparison of an exported model with the folded model in torch; ``mean`` and ``worst`` are over frames.

    Attributes:
        sha256: the hash of the file that ran.
        runtime: the runtime that ran it: ``onnxruntime``, ``tensorrt`` or ``tensorrt_rtx``.
        precision: the precision of its matrix products.
        frames: the number of frames compared.
        cosine, absolute_error, relative_error: errors of the logits or embeddings on the worst frame; see
            :class:`Thresholds`. None if the file returns masks only.
        classes: the classes that occur in the results of torch on these frames. None for embeddings.
        agreement_mean, agreement_worst: share of pixels (for classification, frames) that get the same class as in
            torch, from the output that agrees least. None for embeddings.
        dice_mean, dice_worst: Dice coefficient of the masks, averaged over the classes in a frame, from the output that
            agrees least. None except for segmentation.
        distance_error: largest relative error of the distances; see :class:`Thresholds`. None if the file gives none.
        thresholds: the limits that applied.
        failures: a sentence for each limit exceeded; empty if the model passed.
        diverged: where the error began: ``embedding``, ``blocks.{i}``, ``adapters.{i}`` or ``head``. It is ``engine``
            for an engine, whose intermediate tensors cannot be read, and None if the model passed.
        stream: relative L2 error of the residual stream after each place, if an ONNX file failed; otherwise None.
    """

    sha256: str
    runtime: str
    precision: str
    frames: int
    cosine: float | None
    absolute_error: float | None
    relative_error: float | None
    classes: tuple[int, ...] | None
    agreement_mean: float | None
    agreement_worst: float | None
    dice_mean: float | None
    dice_worst: float | None
    distance_error: float | None
    thresholds: Thresholds
    failures: tuple[str, ...]
    diverged: str | None
    stream: dict[str, float] | None

    @property
    def passed(self) -> bool:
        """Whether the model kept every limit."""
        return not self.failures

    def write(self, path: Path, engine: Report | None = None) -> None:
        """Write the report as JSON. ``engine`` is the report on the engine built from this ONNX file, if it ran.

        Raises:
            InputError: the file cannot be written.
        """
        values = {"passed": self.passed, **asdict(self)}
        if engine is not None:
            values["engine"] = {"passed": engine.passed, **asdict(engine)}
        content = json.dumps(values, indent=2) + "\n"
        write_whole(path, content.encode(), "the report")


def check_onnx(folded: FoldedHTCLIP, path: str | Path, frames: Tensor, thresholds: Thresholds | None = None) -> Report:
    """Run an exported model in ONNX Runtime on the CPU, and compare it with the folded model that it came from.

    16-bit types are emulated as tensor cores compute: sums are in float32, and the result of every node is rounded.
    ONNX Runtime's own CPU kernels would not do: they have no bfloat16 products, and between float16 nodes they skip
    roundings, which hides overflows.

    Args:
        folded: the model, folded in float32.
        path: the ONNX file.
        frames: real frames (B, C, H, W) uint8; B is any number, C is what the file was exported for.
        thresholds: the limits to keep; default: the entry of ``THRESHOLDS`` for the precision of the file.

    Raises:
        InputError: the file cannot be run, has other outputs than the model, or the frames do not fit.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise InputError("the check needs onnx and onnxruntime: pip install onnx onnxruntime") from error

    content = read_whole(Path(path), "the file")
    try:
        model = onnx.load_from_string(content)
    except Exception as error:
        raise InputError(f"{path} cannot be read as an ONNX file: {reason(error)}") from error
    precision = _precision(model)
    thresholds = thresholds or THRESHOLDS[precision]
    if precision != "fp32":
        _emulate(model)
    # The logits are compared too where the file only gives the mask made of them: a mask shows an error later.
    given = [output.name for output in model.graph.output]
    names = dict.fromkeys(given if "grid" in given else [folded.result, *given])
    outputs = _upsampled(folded, _run(model, list(names), frames))
    measured = _compare(folded.result, _expected(folded, frames), outputs)
    worst = measured.pop("worst")
    failures = _failures(measured, thresholds)
    stream, diverged = None, None
    if failures:
        stream = _stream_errors(folded, model, frames[worst : worst + 1])
        diverged = next((place for place, error in stream.items() if not error <= thresholds.stream), "head")
    return Report(
        sha256=sha256(content),
        runtime="onnxruntime",
        precision=precision,
        frames=len(frames),
        **measured,
        thresholds=thresholds,
        failures=failures,
        diverged=diverged,
        stream=stream,
    )


def check_session(
    folded: FoldedHTCLIP, path: str | Path, frames: Tensor, thresholds: Thresholds | None = None
) -> Report:
    """Run a file in a :class:`ht_kernels.deploy.Session`, and compare it with the folded model.

    An engine runs on its GPU. The arguments are those of :func:`check_onnx`.

    Raises:
        InputError: the file does not fit its manifest, or the frames do not fit.
        BackendError: the file cannot run on this machine.
    """
    path = Path(path)
    manifest = read_manifest(manifest_path(path))
    thresholds = thresholds or THRESHOLDS[manifest.precision]
    engine = manifest.kind != "onnx"
    session = Session.open(path, runtime="tensorrt" if engine else "onnxruntime")
    smallest, _, largest = session.batch
    parts = []
    for part in torch.split(frames, largest):
        filled = torch.cat([part, part[-1:].expand(max(0, smallest - len(part)), -1, -1, -1)])
        results = (session(filled),) if session.familiarity is None else session.with_distance(filled)
        parts.append([result[: len(part)].cpu().numpy() for result in results])
    outputs = {name: np.concatenate([part[i] for part in parts]) for i, (name, *_) in enumerate(manifest.outputs)}
    measured = _compare(folded.result, _expected(folded, frames), _upsampled(folded, outputs))
    del measured["worst"]
    failures = _failures(measured, thresholds)
    return Report(
        sha256=manifest.sha256,
        runtime=manifest.kind if engine else "onnxruntime",
        precision=manifest.precision,
        frames=len(frames),
        **measured,
        thresholds=thresholds,
        failures=failures,
        diverged="engine" if failures else None,
        stream=None,
    )


@torch.inference_mode()
def _expected(folded: FoldedHTCLIP, frames: Tensor) -> dict[str, Array]:
    """Logits or embeddings of the folded model in torch, and the distances if it is calibrated, by their names."""
    folded.check(frames)
    device, distance = folded.position.device, folded.familiarity is not None
    parts = [folded.compute(part.to(device), distance=distance) for part in torch.split(frames, _FRAMES_AT_ONCE)]
    names = (folded.result, DISTANCE) if distance else (folded.result,)
    return {name: torch.cat([part[i] for part in parts]).cpu().numpy() for i, name in enumerate(names)}


def _upsampled(folded: FoldedHTCLIP, outputs: dict[str, Array]) -> dict[str, Array]:
    """Outputs with ``grid``, logits on the patch grid, as ``logits`` of the image's size.

    Raises:
        InputError: the grid is not the model's.
    """
    if "grid" not in outputs:
        return outputs
    grid = outputs["grid"]
    wanted = (len(grid), folded.width, *folded.grid)
    if grid.shape != wanted:
        raise InputError(f"the file gives grid {grid.shape}, expected {wanted}")
    logits = F.interpolate(torch.from_numpy(grid), folded.image_size, mode="bilinear", align_corners=False)
    return {"logits": logits.numpy(), **{name: one for name, one in outputs.items() if name != "grid"}}


def _precision(model: ModelProto) -> str:
    """The precision of the matrix products of a model."""
    from onnx import TensorProto

    types = {tensor.data_type for tensor in model.graph.initializer}
    return "bf16" if TensorProto.BFLOAT16 in types else "fp16" if TensorProto.FLOAT16 in types else "fp32"


def _compare(name: str, expected: dict[str, Array], outputs: dict[str, Array]) -> dict[str, Any]:
    """The measured fields of a :class:`Report`, and the index of the worst frame under ``worst``.

    Args:
        name: ``logits`` or ``embeddings``.
        expected: the logits or embeddings, and the distances if any, of torch.
        outputs: what the file gave, by the names of the tensors: ``name``, ``mask`` or both, and ``distance``.

    Raises:
        InputError: an output has another name, shape or type.
    """
    count, known = len(expected[name]), dict(expected)
    classes = classes_of(torch.from_numpy(expected[name])).numpy() if name == "logits" else None
    if classes is not None and classes.ndim > 1:
        known["mask"] = classes
    for output, got in outputs.items():
        wanted = known.get(output)
        if wanted is None or (got.shape, got.dtype) != (wanted.shape, wanted.dtype):
            shapes = " or ".join(f"{n} {tuple(one.shape)} {one.dtype}" for n, one in known.items())
            raise InputError(f"the file gives {output} {tuple(got.shape)} {got.dtype}, expected {shapes}")
    cosine = error = relative = agreement = overlap = None
    if name in outputs:
        a, b = (values.reshape(count, -1).astype(np.float64) for values in (known[name], outputs[name]))
        error = np.abs(a - b).max(1)
        relative = error / np.abs(a).max(1)
        cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    if classes is not None:
        given = [classes_of(torch.from_numpy(outputs[name])).numpy()] if name in outputs else []
        given += [outputs["mask"]] if "mask" in outputs else []
        agreement = np.min([(classes == ours).reshape(count, -1).mean(1) for ours in given], axis=0)
        if classes.ndim > 1:
            overlap = np.min([[_dice(*pair) for pair in zip(classes, ours, strict=True)] for ours in given], axis=0)
    apart = relative
    if apart is None:
        assert agreement is not None
        apart = 1 - agreement
    distance = None
    if DISTANCE in outputs:
        distance = np.abs(outputs[DISTANCE] / known[DISTANCE] - 1)
        apart = np.maximum(apart, distance)
    return {
        "cosine": None if cosine is None else float(cosine.min()),
        "absolute_error": None if error is None else float(error.max()),
        "relative_error": None if relative is None else float(relative.max()),
        "classes": None if classes is None else tuple(np.unique(classes).tolist()),
        "agreement_mean": None if agreement is None else float(agreement.mean()),
        "agreement_worst": None if agreement is None else float(agreement.min()),
        "dice_mean": None if overlap is None else float(overlap.mean()),
        "dice_worst": None if overlap is None else float(overlap.min()),
        "distance_error": None if distance is None else float(distance.max()),
        "worst": int(apart.argmax()),  # NaN counts as largest
    }


def _dice(a: Array, b: Array) -> float:
    """The Dice coefficient of two masks, averaged over the classes that occur in either."""
    return float(np.mean([dice(a == k, b == k) for k in np.union1d(a, b)]))


def _failures(measured: dict[str, Any], thresholds: Thresholds) -> tuple[str, ...]:
    rows: list[tuple[str, float | None, bool, float]] = [
        ("cosine similarity", measured["cosine"], True, thresholds.cosine),
        ("relative error", measured["relative_error"], False, thresholds.relative),
        ("agreement of classes", measured["agreement_mean"], True, thresholds.agreement),
        ("Dice", measured["dice_mean"], True, thresholds.dice),
        ("relative error of distances", measured["distance_error"], False, thresholds.distance),
    ]
    return tuple(
        f"{name} is {value:.6g}, expected at {'least' if least else 'most'} {limit:g}"
        for name, value, least, limit in rows
        if value is not None and not (value >= limit if least else value <= limit)  # NaN fails
    )


def _stream_errors(folded: FoldedHTCLIP, model: ModelProto, frame: Tensor) -> dict[str, float]:
    """The relative L2 error of the residual stream after each place, in the order of computation."""
    expected = _stream(folded, frame)
    got = _run(model, [f"{place}.out" for place in expected], frame)
    return {
        place: float(np.linalg.norm(got[f"{place}.out"][:1] - tokens) / np.linalg.norm(tokens))
        for place, tokens in expected.items()
    }


def _stream(folded: FoldedHTCLIP, frame: Tensor) -> dict[str, Array]:
    """The residual stream (1, N, D) of the folded model after each place, by the place's name in the ONNX graph."""
    tokens: dict[str, Array] = {}

    def keep(place: str, x: Tensor) -> None:
        tokens[place] = x.cpu().numpy().copy()  # blocks overwrite their input

    handles = [folded.blocks[0].register_forward_pre_hook(lambda _, args: keep("embedding", args[0]))]
    for kind, modules in (("blocks", folded.blocks.named_children()), ("adapters", folded.adapters.items())):
        for name, module in modules:
            place = f"{kind}.{name}"
            handles.append(module.register_forward_hook(lambda _, args, out, place=place: keep(place, out)))
    try:
        with torch.inference_mode():
            folded(frame.to(folded.position.device))
    finally:
        for handle in handles:
            handle.remove()
    return tokens


def _run(model: ModelProto, names: Sequence[str], frames: Tensor) -> dict[str, Array]:
    """Run a model in ONNX Runtime, and return the tensors named ``names``."""
    import onnx
    import onnxruntime

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    fixed = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    try:
        session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
        parts = []
        for part in torch.split(frames, fixed or _FRAMES_AT_ONCE):
            missing = (fixed or len(part)) - len(part)
            filled = torch.cat([part, part[-1:].expand(missing, -1, -1, -1)])
            results = session.run(names, {"frames": filled.cpu().numpy()})
            parts.append([result[: len(part)] for result in results])
    except Exception as error:  # ONNX Runtime's exceptions have no narrower common class
        raise InputError(f"ONNX Runtime cannot run the export: {reason(error)}") from error
    return {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(names)}


def _emulate(model: ModelProto) -> None:
    """Rewrite a 16-bit model in place so that it computes in float32 and rounds the result of every node.

    Constants become float32 with the values that they have in 16 bits.
    """
    from onnx import NodeProto, TensorProto, helper, numpy_helper, shape_inference

    graph = model.graph
    narrow = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
    types = {v.name: v.type.tensor_type.elem_type for v in shape_inference.infer_shapes(model).graph.value_info}
    for tensor in graph.initializer:
        if tensor.data_type in narrow:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    nodes: list[NodeProto] = []
    for node in graph.node:
        rounded = [name for name in node.output if types.get(name) in narrow]
        for index, name in enumerate(node.output):
            if name in rounded:
                node.output[index] = f"{name}/wide"
        if node.op_type == "Cast" and rounded:
            node.attribute[0].i = TensorProto.FLOAT
        nodes.append(NodeProto.FromString(node.SerializeToString()))
        for name in rounded:
            nodes.append(helper.make_node("Cast", [f"{name}/wide"], [f"{name}/rounded"], to=types[name]))
            nodes.append(helper.make_node("Cast", [f"{name}/rounded"], [name], to=TensorProto.FLOAT))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
