"""The parts of a tower's transformer block, under the same names whatever package the block is of."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_IN_ATTENTION = {"qkv", "q_proj", "k_proj", "v_proj", "q_bias", "v_bias", "q_norm", "k_norm", "proj"}
"""The parts of timm's attention, with parameters, that can be folded."""


class BlockParts(NamedTuple):
    """The modules and weights of a block, under the same names for every tower.

    ``qkv``, ``out``, ``hidden`` and ``last`` are (weight, bias or None). ``query_norm`` and ``key_norm`` are LayerNorms
    over the channels of a head, or None. A scale holds a factor per channel, or is None. In a gated MLP the rows of
    ``hidden`` are those of the gate and then those of the value that the gate multiplies.
    """

    heads: int
    norm1: Any
    qkv: tuple[Tensor, Tensor | None]
    query_norm: Any
    key_norm: Any
    out: tuple[Tensor, Tensor | None]
    scale1: Tensor | None
    norm2: Any
    hidden: tuple[Tensor, Tensor | None]
    activation: Any
    gated: bool
    last: tuple[Tensor, Tensor | None]
    scale2: Tensor | None


def read_block(block: Any) -> BlockParts | None:
    """The parts of a block from open_clip, the OpenAI package or timm, or None if the block computes something else."""
    attention: Any = getattr(block, "attn", None)
    if isinstance(attention, nn.MultiheadAttention):
        parts = _read_clip(block, attention)
    elif hasattr(block, "ls1") or hasattr(block, "gamma_1"):  # others have their norms behind attention and MLP
        parts = _read_timm(block, attention)
    else:
        return None
    plain = parts is not None and is_layer_norm(parts.norm1) and is_layer_norm(parts.norm2)
    return parts if plain else None


def _read_clip(block: Any, attention: Any) -> BlockParts | None:
    mlp: Any = getattr(block, "mlp", None)
    plain = attention.in_proj_weight is not None and attention.bias_k is None and not attention.add_zero_attn
    if not plain or getattr(block, "attn_mask", None) is not None or not hasattr(mlp, "c_fc"):
        return None
    return BlockParts(
        attention.num_heads,
        block.ln_1,
        (attention.in_proj_weight, attention.in_proj_bias),
        None,
        None,
        _linear(attention.out_proj),
        _scale(getattr(block, "ls_1", None)),
        block.ln_2,
        _linear(mlp.c_fc),
        mlp.gelu,
        False,
        _linear(mlp.c_proj),
        _scale(getattr(block, "ls_2", None)),
    )


def _read_timm(block: Any, attention: Any) -> BlockParts | None:
    inside, mlp = {name.split(".")[0] for name, _ in attention.named_parameters()}, _read_mlp(block.mlp)
    if inside - _IN_ATTENTION or mlp is None:
        return None
    qkv = _qkv(attention)
    found = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
    query_norm, key_norm = (None if isinstance(norm, nn.Identity) else norm for norm in found)
    if qkv is None or not all(norm is None or is_layer_norm(norm) for norm in (query_norm, key_norm)):
        return None
    hidden, activation, gated, last = mlp
    # Eva has its factors in the block itself, and may have one matrix for each of queries, keys and values.
    scales = [_scale(getattr(block, name, None)) for name in ("ls1", "gamma_1", "ls2", "gamma_2")]
    return BlockParts(
        attention.num_heads,
        block.norm1,
        qkv,
        query_norm,
        key_norm,
        _linear(attention.proj),
        scales[0] if scales[1] is None else scales[1],
        block.norm2,
        hidden,
        activation,
        gated,
        last,
        scales[2] if scales[3] is None else scales[3],
    )


def _qkv(attention: Any) -> tuple[Tensor, Tensor | None] | None:
    """The matrix and bias of queries, keys and values from timm's attention, which may hold them in parts.

    None if there are fewer keys than queries.
    """
    if attention.qkv is None:
        maps = [_linear(part) for part in (attention.q_proj, attention.k_proj, attention.v_proj)]
        if len({weight.shape for weight, _ in maps}) > 1:
            return None
        biases = [torch.zeros_like(weight[:, 0]) if bias is None else bias for weight, bias in maps]
        return torch.cat([weight for weight, _ in maps]), torch.cat(biases)
    if getattr(attention, "q_bias", None) is not None:
        return attention.qkv.weight, torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
    return _linear(attention.qkv)


def _read_mlp(mlp: Any) -> tuple[tuple[Tensor, Tensor | None], Any, bool, tuple[Tensor, Tensor | None]] | None:
    """The fields ``hidden``, ``activation``, ``gated`` and ``last`` of :class:`BlockParts` from an MLP of timm."""
    inside = {name.split(".")[0] for name, _ in mlp.named_parameters()}
    if inside - {"fc1", "fc1_g", "fc1_x", "fc2"}:
        return None
    if "fc1_g" in inside:
        (gate, gate_bias), (value, value_bias) = _linear(mlp.fc1_g), _linear(mlp.fc1_x)
        bias = None if gate_bias is None or value_bias is None else torch.cat([gate_bias, value_bias])
        return (torch.cat([gate, value]), bias), mlp.act, True, _linear(mlp.fc2)
    weight, bias = _linear(mlp.fc1)
    gated = hasattr(mlp, "gate_last")
    if gated and mlp.gate_last:
        weight, bias = (None if t is None else torch.cat(t.chunk(2)[::-1]) for t in (weight, bias))
    if mlp.fc1.out_features != mlp.fc2.in_features * (2 if gated else 1):
        return None
    return (weight, bias), mlp.act, gated, _linear(mlp.fc2)


def _linear(layer: Any) -> tuple[Any, Any]:
    return layer.weight, layer.bias


def _scale(scale: Any) -> Tensor | None:
    """The factors per channel of a LayerScale or of a bare parameter; None for an identity."""
    return scale if isinstance(scale, Tensor) else getattr(scale, "gamma", None)


def is_layer_norm(module: object) -> bool:
    return isinstance(module, nn.LayerNorm) and module.weight is not None and module.bias is not None
