"""The gate: it runs an exported or FP8 model on real frames and compares the results with the folded model in torch.

Every output that the file declares is compared with what torch gives a user; for logits that includes the classes.
Logits on the patch grid are upsampled to the image's size first.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
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
from ht_kernels.logits import probabilities
from ht_kernels.packages import import_package
from ht_kernels.words import counted

from .calibration import check_others
from .folded import FoldedHTCLIP
from .manifest import DISTANCE, Manifest, manifest_of, read_described, sha256
from .onnx_run import FRAMES_AT_ONCE, precision_of, run
from .quantize import calibration_frames
from .session import Session
from .torchscript import load_script

if TYPE_CHECKING:
    from onnx import ModelProto

Array = NDArray[Any]

_TIE = 0.05
"""A class of a frame that is less probable than the most probable one by no more than this is as good as that one."""


@dataclass(frozen=True)
class Thresholds:
    """The limits that an exported or rounded model must keep.

    Attributes:
        cosine: smallest allowed cosine similarity of the logits of any frame.
        relative: largest allowed error of a logit, relative to the largest logit of the frame.
        agreement: smallest allowed share of pixels (for classification, frames) that get the same class as in torch,
            on average over frames. A frame may also get another class that torch finds nearly as probable.
        dice: smallest allowed Dice coefficient of the masks, on average over frames.
        distance: largest allowed relative error of a frame's distance from the training images.
    """

    cosine: float
    relative: float
    agreement: float
    dice: float
    distance: float


THRESHOLDS = {
    "fp32": Thresholds(cosine=0.999999, relative=1e-4, agreement=0.9999, dice=0.999, distance=1e-4),
    "fp16": Thresholds(cosine=0.999, relative=1e-2, agreement=0.99, dice=0.98, distance=1e-2),
    "bf16": Thresholds(cosine=0.99, relative=1e-1, agreement=0.98, dice=0.95, distance=5e-2),
    "int8": Thresholds(cosine=0.99, relative=2e-1, agreement=0.99, dice=0.99, distance=1e-1),
    "fp8": Thresholds(cosine=0.99, relative=3e-1, agreement=0.99, dice=0.98, distance=1.5e-1),
}
"""The default limits, by precision. Those of 16 bits are five to ten times the errors measured on a real clip with
ViT-Tiny and ViT-B/16 with random weights (fp16: relative 1.4e-3; bf16: relative 1.7e-2), because trained towers have
larger values. Those of int8 are for the masks of trained models, which show less than single logits do. Those
of FP8 are about one and a half times the errors of ``breast``, on two draws of 16 images of BUSI: relative 0.13 and
0.20, distance 0.08 and 0.08, Dice 0.988 and 0.990."""


@dataclass(frozen=True)
class Report:
    """The comparison of a model with the folded model in torch; ``mean`` and ``worst`` are over frames.

    Attributes:
        sha256: the hash of the file that ran. None for a model that is no file.
        runtime: what ran it: ``onnxruntime``, ``openvino``, ``tensorrt``, ``tensorrt_rtx``, ``torchscript`` or
            ``torch``.
        precision: the precision of its matrix products.
        frames: the number of frames compared.
        calibration_frames: the number of other frames that int8 or FP8 was calibrated on; otherwise None.
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
        diverged: where the error comes from: ``head`` if it exceeds a limit even with torch's residual stream, else the
            place with the largest ``own`` error. It is ``engine`` for an engine, ``ir`` for an IR and ``script`` for
            TorchScript, whose inner tensors are not read, and None if the model passed.
        stream: relative L2 error of the residual stream behind ``embedding`` and each ``blocks.{i}`` and
            ``adapters.{i}``, on the worst frame, if an ONNX file or a model failed; otherwise None.
        own: the same of each place alone, with torch's residual stream before it.
    """

    sha256: str | None
    runtime: str
    precision: str
    frames: int
    calibration_frames: int | None
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
    own: dict[str, float] | None

    @property
    def passed(self) -> bool:
        """Whether the model kept every limit."""
        return not self.failures

    def write(self, path: Path, built: Report | None = None) -> None:
        """Write the report as JSON. ``built`` is the report on the engine or IR built from this ONNX file, if it ran.

        Raises:
            InputError: the file cannot be written.
        """
        values = {"passed": self.passed, **asdict(self)}
        if built is not None:
            values["ir" if built.runtime == "openvino" else "engine"] = {"passed": built.passed, **asdict(built)}
        content = json.dumps(values, indent=2) + "\n"
        write_whole(path, content.encode(), "the report")


def check_onnx(folded: FoldedHTCLIP, path: str | Path, frames: Tensor, thresholds: Thresholds | None = None) -> Report:
    """Run an exported model in ONNX Runtime on the CPU, and compare it with the folded model that it came from.

    16-bit types are emulated as tensor cores compute: sums are in float32, and the result of every node is rounded.
    ONNX Runtime's own CPU kernels would not do: they have no bfloat16 products, and between float16 nodes they skip
    roundings, which hides overflows. Int8 is emulated too, node by node in float32: sums of int8 products saturate in
    ONNX Runtime on processors that lack instructions for them (VNNI), and nowhere else.

    Args:
        folded: the model, folded in float32.
        path: the ONNX file.
        frames: real frames (B, C, H, W) uint8; B is any number, C is what the file was exported for.
        thresholds: the limits to keep; default: the entry of ``THRESHOLDS`` for the precision of the file.

    Raises:
        InputError: the file cannot be run, has other outputs than the model, or was calibrated on some of the frames;
            or the frames do not fit.
    """
    onnx = import_package("onnx", "the check needs onnx", "onnx onnxruntime")
    folded.check(frames)
    content = read_whole(Path(path), "the file")
    try:
        model = onnx.load_from_string(content)
    except Exception as error:
        raise InputError(f"{path} cannot be read as an ONNX file: {reason(error)}") from error
    precision = precision_of(model)
    thresholds = thresholds or THRESHOLDS[precision]
    calibrated = calibration_frames(model, frames)
    if precision in ("fp16", "bf16"):
        _emulate(model)
    # The logits are compared too where the file only gives the mask made of them: a mask shows an error later.
    given = [output.name for output in model.graph.output]
    names = dict.fromkeys(given if "grid" in given else [folded.result, *given])
    outputs = _upsampled(folded, run(model, list(names), frames))
    expected = _expected(folded, frames)
    measured = _compare(folded.result, expected, outputs)
    worst = measured.pop("worst")
    failures = _failures(measured, thresholds)
    stream, own, diverged = None, None, None
    if failures:
        frame = frames[worst : worst + 1]
        tokens = _stream(folded, frame)
        stream, _ = _stream_errors(model, tokens, frame)
        if precision == "int8":  # its distances are corrected for the errors of the stream, which is torch's here
            names.pop(DISTANCE, None)
        own, outputs = _stream_errors(model, tokens, frame, names, given=True)
        head = _compare(
            folded.result,
            {name: values[worst : worst + 1] for name, values in expected.items()},
            _upsampled(folded, outputs),
        )
        largest = max(own, key=lambda place: np.inf if np.isnan(own[place]) else own[place])
        diverged = "head" if _failures(head, thresholds) else largest
    return Report(
        sha256=sha256(content),
        runtime="onnxruntime",
        precision=precision,
        frames=len(frames),
        calibration_frames=calibrated,
        **measured,
        thresholds=thresholds,
        failures=failures,
        diverged=diverged,
        stream=stream,
        own=own,
    )


def check_session(
    folded: FoldedHTCLIP, path: str | Path, frames: Tensor, thresholds: Thresholds | None = None
) -> Report:
    """Run a file in a :class:`ht_kernels.deploy.Session`, and compare it with the folded model.

    An engine runs on its GPU, other files on the CPU. The arguments are those of :func:`check_onnx`.

    Raises:
        InputError: the file does not fit its manifest, or the frames do not fit.
        BackendError: the file cannot run on this machine.
    """
    path = Path(path)
    manifest = manifest_of(path)
    thresholds = thresholds or THRESHOLDS[manifest.precision]
    runtime = {"onnx": "onnxruntime", "openvino": "openvino"}.get(manifest.kind, "tensorrt")
    session = Session.open(path, runtime=runtime)
    smallest, _, largest = session.batch
    parts = []
    for part in torch.split(frames, largest):
        filled = torch.cat([part, part[-1:].expand(max(0, smallest - len(part)), -1, -1, -1)])
        results = (session(filled),) if session.familiarity is None else session.with_distance(filled)
        parts.append([result[: len(part)].cpu().numpy() for result in results])
    outputs = {name: np.concatenate([part[i] for part in parts]) for i, (name, *_) in enumerate(manifest.outputs)}
    place = "ir" if manifest.kind == "openvino" else "engine"
    ran = manifest.kind if runtime == "tensorrt" else runtime
    return _report_on_file(folded, manifest, frames, outputs, thresholds, ran, place)


def check_torchscript(
    folded: FoldedHTCLIP, path: str | Path, frames: Tensor, thresholds: Thresholds | None = None
) -> Report:
    """Run a TorchScript file in torch on the CPU, and compare it with the folded model.

    The first frame runs alone and in floating point, as programs for live video pass them. The arguments are those of
    :func:`check_onnx`.

    Raises:
        InputError: the file does not fit its manifest, torch cannot load or run it, it gives other outputs than the
            model, or the frames do not fit.
    """
    path = Path(path)
    manifest = manifest_of(path)
    if manifest.kind != "torchscript":
        raise InputError(f"{path} is of kind {manifest.kind}, expected a TorchScript file")
    folded.check(frames)
    script = load_script(read_described(path, manifest)[0])
    parts = []
    try:
        with torch.inference_mode():
            for part in (frames[:1].float(), *torch.split(frames[1:], FRAMES_AT_ONCE)):
                if len(part):
                    distances = [] if manifest.familiarity is None else [script.with_distance(part)[1]]
                    parts.append([result.numpy() for result in (script(part), *distances)])
    except RuntimeError as error:
        raise InputError(f"torch cannot run {path}: {reason(error)}") from error
    outputs = {name: np.concatenate([part[i] for part in parts]) for i, (name, *_) in enumerate(manifest.outputs)}
    thresholds = thresholds or THRESHOLDS[manifest.precision]
    return _report_on_file(folded, manifest, frames, outputs, thresholds, "torchscript", "script")


def _report_on_file(
    folded: FoldedHTCLIP,
    manifest: Manifest,
    frames: Tensor,
    outputs: dict[str, Array],
    thresholds: Thresholds,
    runtime: str,
    place: str,
) -> Report:
    """The report on a file whose inner tensors are not read, from its outputs. ``place`` is its ``diverged``."""
    measured = _compare(folded.result, _expected(folded, frames), _upsampled(folded, outputs))
    del measured["worst"]
    failures = _failures(measured, thresholds)
    return Report(
        sha256=manifest.sha256,
        runtime=runtime,
        precision=manifest.precision,
        frames=len(frames),
        calibration_frames=None,
        **measured,
        thresholds=thresholds,
        failures=failures,
        diverged=place if failures else None,
        stream=None,
        own=None,
    )


def check_folded(
    folded: FoldedHTCLIP, model: FoldedHTCLIP, frames: Tensor, thresholds: Thresholds | None = None
) -> Report:
    """Compare a folded model in FP8 or 16 bits with the same model in float32, each on its own device.

    Args:
        folded: the model, folded in float32.
        model: what :func:`ht_kernels.deploy.quantize_fp8` made of it, or the model folded to a 16-bit dtype.
        frames: real frames (B, C, H, W) uint8 that FP8 was not calibrated on; B is any number.
        thresholds: the limits to keep; default: the entry of ``THRESHOLDS`` for the precision of ``model``.

    Returns:
        The report on a model that keeps the limits.

    Raises:
        TypeError: ``folded`` is not in float32.
        InputError: ``model`` exceeds a limit, and the message says which, and where the error comes from; or it is
            another model than ``folded``, it was calibrated on some of the frames, or the frames do not fit.
    """
    if folded.position.dtype != torch.float32:
        raise TypeError(f"folded was folded into {folded.position.dtype}, expected a model folded in float32")
    same = all(getattr(model, name) == getattr(folded, name) for name in ("config", "image_size", "grid"))
    if not same or (model.familiarity is None) != (folded.familiarity is None):
        raise InputError("the two models differ in more than their precision: pass what was made of one checkpoint")
    check_others(frames, model.calibrated_on)
    thresholds = thresholds or THRESHOLDS[model.precision]
    expected = _expected(folded, frames)
    measured = _compare(folded.result, expected, _expected(model, frames))
    worst = measured.pop("worst")
    failures = _failures(measured, thresholds)
    if failures:
        frame = frames[worst : worst + 1]
        own, outputs = _own_errors(model, _stream(folded, frame), frame)
        head = _compare(folded.result, {name: values[worst : worst + 1] for name, values in expected.items()}, outputs)
        place = "behind the blocks, in the head"
        if not _failures(head, thresholds):
            place = f"in {max(own, key=lambda place: np.inf if np.isnan(own[place]) else own[place])}"
        calibrated = ""
        if model.calibrated_on:
            calibrated = (
                f" It was calibrated on {counted(len(model.calibrated_on), 'frame')}: those and the ones to check on "
                "should be like those that the model will see, and many."
            )
        raise InputError(
            f"the model in {model.precision} does not compute what it does in float32: {'; '.join(failures)}, on "
            f"{counted(len(frames), 'frame')}. The error arises {place}.{calibrated} If it stays, take float16 or "
            "bfloat16"
        )
    return Report(
        sha256=None,
        runtime="torch",
        precision=model.precision,
        frames=len(frames),
        calibration_frames=len(model.calibrated_on) or None,
        **measured,
        thresholds=thresholds,
        failures=(),
        diverged=None,
        stream=None,
        own=None,
    )


def _own_errors(
    model: FoldedHTCLIP, tokens: dict[str, Array], frame: Tensor
) -> tuple[dict[str, float], dict[str, Array]]:
    """The error of each place of a model alone, given torch's tokens before it, and the results of its head given them.

    ``tokens`` are those of :func:`_stream`. Errors are relative L2 errors of the residual stream.
    """
    errors: dict[str, float] = {}
    like = model.position

    def replaced(place: str, given: Any) -> Any:
        x, is_adapter = _tokens_of(given), isinstance(given, tuple)
        expected = torch.tensor(tokens[place])
        errors[place] = float((x.cpu().float() - expected).norm() / expected.norm())
        return (expected.to(like), None) if is_adapter else expected.to(like)

    handles = [model.blocks[0].register_forward_pre_hook(lambda _, args: replaced("embedding", args[0]))]
    for place in tokens:
        if place != "embedding":
            module = model.get_submodule(place)
            handles.append(module.register_forward_hook(lambda _, args, out, place=place: replaced(place, out)))
    try:
        return errors, _expected(model, frame)
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def _expected(folded: FoldedHTCLIP, frames: Tensor) -> dict[str, Array]:
    """Logits or embeddings of the folded model in torch, and the distances if it is calibrated, by their names."""
    folded.check(frames)
    device, distance = folded.position.device, folded.familiarity is not None
    parts = [folded.compute(part.to(device), distance=distance) for part in torch.split(frames, FRAMES_AT_ONCE)]
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
        if classes.ndim > 1:
            agreement = np.min([(classes == ours).reshape(count, -1).mean(1) for ours in given], axis=0)
            overlap = np.min([[_dice(*pair) for pair in zip(classes, ours, strict=True)] for ours in given], axis=0)
        else:
            agreement = _chosen(known[name], given[0])
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


def _chosen(logits: Array, classes: Array) -> Array:
    """1 for each class (B,) that is the most probable one of the logits (B, K) or as good as that, else 0: (B,)."""
    shares = probabilities(logits)
    given = np.take_along_axis(shares, classes[:, None].astype(np.int64), axis=1)[:, 0]
    chosen: Array = (given >= shares.max(1) - _TIE).astype(np.float64)
    return chosen


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


def _stream_errors(
    model: ModelProto, tokens: dict[str, Array], frame: Tensor, names: Iterable[str] = (), given: bool = False
) -> tuple[dict[str, float], dict[str, Array]]:
    """The relative L2 error of the residual stream behind each place, and the outputs named ``names``.

    ``tokens`` are those of :func:`_stream`. If ``given``, every part of the model reads them instead of its own.
    """
    feeds = {f"{place}.in": values for place, values in tokens.items()} if given else {}
    outputs = [*names, *(f"{place}.out" for place in tokens)]
    got = run(_with_streams_given(model, tokens) if given else model, outputs, frame, feeds)
    errors = {
        place: float(np.linalg.norm(got.pop(f"{place}.out") - expected) / np.linalg.norm(expected))
        for place, expected in tokens.items()
    }
    return errors, got


def _with_streams_given(model: ModelProto, tokens: dict[str, Array]) -> ModelProto:
    """The model with an input for the residual stream behind each place, which all that reads the stream reads."""
    from onnx import TensorProto, helper

    given = type(model)()
    given.CopyFrom(model)
    inputs = {f"{place}.out": f"{place}.in" for place in tokens}
    for node in given.graph.node:
        node.input[:] = [inputs.get(name, name) for name in node.input]
    given.graph.input.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs.values())
    return given


def _stream(folded: FoldedHTCLIP, frame: Tensor) -> dict[str, Array]:
    """The residual stream (1, N, D) of the folded model after each place, by the place's name in the ONNX graph."""
    tokens: dict[str, Array] = {}

    def keep(place: str, given: Any) -> None:
        tokens[place] = _tokens_of(given).cpu().numpy().copy()  # blocks overwrite their input

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


def _tokens_of(given: Any) -> Tensor:
    """The tokens of what a block takes or gives, or an adapter, which also gives their norm for the block behind it."""
    tokens: Tensor = given[0] if isinstance(given, tuple) else given
    return tokens


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
