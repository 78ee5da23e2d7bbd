"""Int8 after training: NNCF turns the float32 graph into one with QuantizeLinear and DequantizeLinear pairs (QDQ).

ONNX Runtime, TensorRT and OpenVINO all read such a graph, and fuse the pairs into the products between them. Weights
are signed and symmetric, with a scale for each channel of the output. Activations are signed and symmetric too, because
TensorRT takes no others, with one scale for each tensor, which calibration frames decide.

NNCF's preset for transformers leaves LayerNorm, softmax, the product behind it and the residual stream in float32.
:data:`KEPT` says what else stays.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ht_kernels.packages import import_package

from .calibration import check_count, check_others, hashes
from .onnx_run import run

if TYPE_CHECKING:
    from onnx import ModelProto

KEPT = (
    "embedding/.*",
    r"adapters\.\d+/(depthwise|weighted|noise|spectral).*",
    r"pyramid\.\d+/last.*",
    "head/.*",
    "pool/.*",
    "distance/.*",
)
"""Patterns of the nodes that stay in float32. Pixels would lose one of their 8 bits as signed numbers; the convolutions
of adapters and their weights by image are little work and decide what is filtered; the rest makes the results."""

_CALIBRATION = "calibration_frames"
"""The entry of a file's metadata that says which frames it was calibrated on."""


def quantize(model: ModelProto, frames: Tensor) -> ModelProto:
    """Quantise a graph of :func:`ht_kernels.deploy.onnx_model.build` in float32.

    The names of nodes and of the tensors that they give stay, so the gate can compare the residual stream.

    Args:
        model: the graph. It is not changed.
        frames: the frames to calibrate on, (B, C, H, W) uint8; B is :data:`~ht_kernels.deploy.calibration.LEAST` or
            more, C, H and W are the graph's.

    Raises:
        InputError: NNCF is not installed, or there are too few frames.
    """
    nncf = import_nncf()
    check_count(len(frames), "int8")
    single = type(model)()
    single.CopyFrom(model)
    ends = [value.type.tensor_type.shape.dim[0] for value in (*single.graph.input, *single.graph.output)]
    for batch in ends:  # the same result for every batch size of the file
        batch.dim_value = 1
    dataset = nncf.Dataset([{"frames": frame[None].numpy()} for frame in frames.cpu()])
    with _silent():
        quantized: ModelProto = nncf.quantize(
            single,
            dataset,
            preset=nncf.QuantizationPreset.PERFORMANCE,
            subset_size=len(frames),
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(patterns=list(KEPT), validate=False),
        )
    graph = quantized.graph
    for new, old in zip((*graph.input, *graph.output), (*model.graph.input, *model.graph.output), strict=True):
        new.type.tensor_type.shape.dim[0].CopyFrom(old.type.tensor_type.shape.dim[0])
    del graph.value_info[:]
    _correct_distance(quantized, single, frames)
    quantized.metadata_props.add(key=_CALIBRATION, value=" ".join(hashes(frames)))
    return quantized


def calibration_frames(model: ModelProto, frames: Tensor) -> int | None:
    """The number of frames that a graph was calibrated on, or None if it is not quantised.

    Raises:
        InputError: some of ``frames`` are among them, so they cannot tell how the file does on others.
    """
    entries = [entry.value.split() for entry in model.metadata_props if entry.key == _CALIBRATION]
    if not entries:
        return None
    (known,) = entries
    check_others(frames, known)
    return len(known)


def _correct_distance(quantized: ModelProto, model: ModelProto, frames: Tensor) -> None:
    """Add to the mean of the training images' features what rounding adds to features, on average over frames.

    Means over patches differ so little between images that a few rounding errors of the same sign look like another
    kind of image.
    """
    from onnx import numpy_helper

    centred = next((node for node in quantized.graph.node if node.name == "distance/centred"), None)
    if centred is None:
        return
    features, name = centred.input
    added = run(quantized, [features], frames)[features].mean(0) - run(model, [features], frames)[features].mean(0)
    mean = next(tensor for tensor in quantized.graph.initializer if tensor.name == name)
    mean.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(mean) + added, name))


def import_nncf() -> Any:
    """Import NNCF, with its reports to Google Analytics off, which are on otherwise.

    Raises:
        InputError: NNCF is not installed or cannot be imported.
    """
    variable = "NNCF_CI"  # read at import
    before = os.environ.get(variable)
    os.environ[variable] = "1"
    try:
        import_package("nncf.onnx", "int8 needs nncf", "nncf")
        return import_package("nncf", "int8 needs nncf", "nncf")
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep NNCF's progress and notes off the standard output, which belongs to the command."""
    logger = logging.getLogger("nncf")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)
