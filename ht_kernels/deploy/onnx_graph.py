"""A builder for strongly typed ONNX graphs. Every node gets a name that says which part of the model it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper
from torch import Tensor

from ht_kernels.errors import InputError

OPSET = 20
"""The version of the ONNX operator set: the first with Gelu, and one that TensorRT 10 and later can read."""

PLUGIN_DOMAIN = "ht_kernels"
"""The domain of the adapter node for the TensorRT plugin, the only operator that is not standard ONNX."""

FLOAT = TensorProto.FLOAT
_TORCH: dict[int, torch.dtype] = {
    FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
}


class Graph:
    """The nodes and constants of a graph, and the type of every tensor. A tensor is represented by its name.

    A node with one output gives it its own name, unless ``output`` names it.

    Args:
        narrow: the ONNX type of matrix products: FLOAT, FLOAT16 or BFLOAT16.
    """

    def __init__(self, narrow: int) -> None:
        self.narrow = narrow
        self.types: dict[str, int] = {}
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, TensorProto] = {}

    def add(
        self, op: str, name: str, *inputs: str, output: str | None = None, to: int | None = None, **attributes: Any
    ) -> str:
        """Add a node, and return its output. ``to`` is the type of the output if it differs from the first input's."""
        output = output or name
        if op == "Cast":
            attributes["to"] = to
        self._nodes.append(helper.make_node(op, list(inputs), [output], name=name, **attributes))
        self.types[output] = self.types[inputs[0]] if to is None else to
        return output

    def cast(self, x: str, to: int) -> str:
        """Return ``x`` in the type ``to``. Each tensor is cast to a type at most once."""
        if self.types[x] == to:
            return x
        name = f"{x}/to_{TensorProto.DataType.Name(to).lower()}"
        return name if name in self.types else self.add("Cast", name, x, to=to)

    def split(self, name: str, x: str, sizes: Sequence[int], axis: int) -> list[str]:
        """Split ``x`` into pieces of the given sizes along ``axis``."""
        outputs = [f"{name}.{i}" for i in range(len(sizes))]
        self._nodes.append(helper.make_node("Split", [x, self.integers(sizes)], outputs, name=name, axis=axis))
        self.types.update(dict.fromkeys(outputs, self.types[x]))
        return outputs

    def reshape(self, name: str, x: str, *shape: int, output: str | None = None) -> str:
        """Reshape ``x`` to (B, *shape); the batch dimension is kept."""
        return self.add("Reshape", name, x, self.integers((0, *shape)), output=output)

    def linear(
        self, name: str, x: str, weight: Tensor, bias: Tensor | None, product: int | None = None, result: int = FLOAT
    ) -> str:
        """Return ``x @ weight.T + bias``, with ``weight`` (out, in).

        The product is computed in the type ``product`` (default: ``narrow``); the bias is added in the type ``result``.
        """
        product = self.narrow if product is None else product
        y = self.add("MatMul", name, self.cast(x, product), self.constant(f"{name}.weight", weight.t(), product))
        y = self.cast(y, result)
        return y if bias is None else self.add("Add", f"{name}/bias", y, self.constant(f"{name}.bias", bias, result))

    def normalize(self, name: str, x: str, width: int, eps: float, weight: Tensor | None = None) -> str:
        """LayerNorm over the last axis, in float32, without bias. ONNX requires a weight, so the default is ones."""
        scale = (
            self.constant(f"ones.{width}", torch.ones(width))
            if weight is None
            else self.constant(f"{name}.weight", weight)
        )
        return self.add("LayerNormalization", name, self.cast(x, FLOAT), scale, axis=-1, epsilon=eps)

    def constant(self, name: str, value: Tensor, to: int = FLOAT) -> str:
        """Add a weight, rounded to the type ``to``, as a constant.

        Raises:
            InputError: a value is too large for the type.
        """
        if name not in self._constants:
            rounded = value.detach().to("cpu", _TORCH[to]).contiguous()
            if not rounded.isfinite().all():
                kind = TensorProto.DataType.Name(to).lower()
                raise InputError(f"{name} has values beyond {kind}; export with another precision")
            raw = rounded.flatten().view(torch.uint8).numpy().tobytes()
            self._constants[name] = helper.make_tensor(name, to, rounded.shape, raw, raw=True)
            self.types[name] = to
        return name

    def integers(self, values: Sequence[int]) -> str:
        """Add a list of integers, such as a shape, axes or sizes, as a constant."""
        name = "integers." + "x".join(str(value) for value in values)
        self._constants[name] = helper.make_tensor(name, TensorProto.INT64, [len(values)], list(values))
        return name

    def model(self, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto], producer_version: str) -> ModelProto:
        """Return the finished model."""
        graph = helper.make_graph(self._nodes, "ht_kernels", inputs, outputs, list(self._constants.values()))
        opsets = [helper.make_opsetid("", OPSET)]
        version = helper.find_min_ir_version_for(opsets)
        if any(node.domain == PLUGIN_DOMAIN for node in self._nodes):
            opsets.append(helper.make_opsetid(PLUGIN_DOMAIN, 1))
        return helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=version,
            producer_name="ht_kernels",
            producer_version=producer_version,
        )
