"""An exported model in ONNX Runtime, with what its nodes give in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ht_kernels.errors import InputError, reason

from .runtimes import import_onnxruntime

if TYPE_CHECKING:
    from onnx import ModelProto

Array = NDArray[Any]

FRAMES_AT_ONCE = 4
"""Batch size for models with a dynamic batch."""


def precision_of(model: ModelProto) -> str:
    """The precision of the matrix products of a model."""
    from onnx import TensorProto

    types = {tensor.data_type for tensor in model.graph.initializer}
    if TensorProto.INT8 in types:
        return "int8"
    return "bf16" if TensorProto.BFLOAT16 in types else "fp16" if TensorProto.FLOAT16 in types else "fp32"


def run(
    model: ModelProto, names: Sequence[str], frames: Tensor, feeds: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """Run an exported model in ONNX Runtime on the CPU, and return the tensors named ``names``, of any node.

    An int8 model is computed in float32 between its pairs of QuantizeLinear and DequantizeLinear, which are not fused:
    on processors without instructions for int8 (VNNI), and only there, ONNX Runtime's sums of int8 products saturate.

    Args:
        model: the model.
        names: the names of the tensors.
        frames: frames (B, C, H, W) uint8; B is any number.
        feeds: the other inputs of the model, if it has any, of one frame, by their names.

    Raises:
        InputError: the model cannot be run on these frames, or ONNX Runtime cannot be imported.
    """
    import onnx

    onnxruntime = import_onnxruntime()

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    fixed = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    options = onnxruntime.SessionOptions()
    if precision_of(model) == "int8":  # compute in float32 between the pairs, in place of fusing them
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
        parts = []
        for part in torch.split(frames, fixed or FRAMES_AT_ONCE):
            missing = (fixed or len(part)) - len(part)
            filled = torch.cat([part, part[-1:].expand(missing, -1, -1, -1)])
            others = {name: np.repeat(values, len(filled), axis=0) for name, values in (feeds or {}).items()}
            results = session.run(names, {"frames": filled.cpu().numpy(), **others})
            parts.append([result[: len(part)] for result in results])
    except Exception as error:  # ONNX Runtime's exceptions have no narrower common class
        raise InputError(f"ONNX Runtime cannot run the export: {reason(error)}") from error
    return {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(names)}
