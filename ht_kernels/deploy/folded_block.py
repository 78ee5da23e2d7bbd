"""A transformer block for inference, whose norms and scales are folded into its matrices."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ht_kernels.folding import at_least_float32

from .block_parts import read_block


class Norm(nn.Module):
    """A LayerNorm whose parameters are buffers."""

    weight: Tensor
    bias: Tensor

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.register_buffer("weight", at_least_float32(norm.weight).clone())
        self.register_buffer("bias", at_least_float32(norm.bias).clone())
        self.eps = float(norm.eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class Block(nn.Module):
    """A pre-norm transformer block. It updates tokens (B, N, D) in place, so residuals need no copy and no addition.

    The affine part of each LayerNorm is folded into the matrix that follows it, and each LayerScale into the matrix
    before it. The value bias passes through the attention unchanged, because the attention weights sum to one, and is
    folded into the output bias. The key bias adds the same number to all scores of a query, which the softmax cancels,
    so it is left out unless keys are normalised, which is not linear. ``qkv_bias`` has zeros for what is left out,
    because a product adds a whole bias on its way.

    The four matrix products are ``qkv``, ``out``, ``hidden`` and ``last``. ``scaled`` has those that are computed in
    FP8, by name; their weights and biases are there, and None here. :mod:`ht_kernels.deploy.float8` fills it.
    """

    qkv_weight: Tensor
    qkv_bias: Tensor
    out_weight: Tensor
    out_bias: Tensor
    hidden_weight: Tensor
    hidden_bias: Tensor
    last_weight: Tensor
    last_bias: Tensor

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        parts = read_block(block)
        assert parts is not None, "why_not_folded refuses such a block"
        tensors = {
            "qkv": _behind_norm(parts.norm1, *parts.qkv),
            "out": _before_scale(parts.scale1, *parts.out),
            "hidden": _behind_norm(parts.norm2, *parts.hidden),
            "last": _before_scale(parts.scale2, *parts.last),
        }
        query_bias, key_bias, value_bias = tensors["qkv"][1].chunk(3)
        out_weight, out_bias = tensors["out"]
        tensors["out"] = out_weight, out_bias + out_weight @ value_bias
        kept_key_bias = torch.zeros_like(key_bias) if parts.key_norm is None else key_bias
        tensors["qkv"] = tensors["qkv"][0], torch.cat([query_bias, kept_key_bias, torch.zeros_like(value_bias)])
        for name, (weight, bias) in tensors.items():
            self.register_buffer(f"{name}_weight", weight.clone())
            self.register_buffer(f"{name}_bias", bias.clone())
        self.query_norm, self.key_norm = (
            None if norm is None else Norm(norm) for norm in (parts.query_norm, parts.key_norm)
        )
        gelu = type(parts.activation) is nn.GELU
        self.activation = _GeluInPlace(parts.activation.approximate) if gelu else copy.deepcopy(parts.activation)
        self.gated = parts.gated
        self.heads = int(parts.heads)
        self.eps = float(parts.norm1.eps), float(parts.norm2.eps)
        self.scaled = nn.ModuleDict()

    def forward(self, x: Tensor, normed: Tensor | None = None) -> Tensor:
        """Update ``x``. ``normed`` is its LayerNorm without gain and bias, by the first eps, where that is known."""
        batch, tokens, dim = x.shape
        rows = x.view(-1, dim)
        qkv = self._product("qkv", F.layer_norm(x, (dim,), eps=self.eps[0]) if normed is None else normed)
        q, k, v = qkv.view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q = q if self.query_norm is None else self.query_norm(q)
        k = k if self.key_norm is None else self.key_norm(k)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(rows.shape[0], -1)
        self._add_product("out", mixed, rows)
        hidden = self._product("hidden", F.layer_norm(x, (dim,), eps=self.eps[1]))
        if self.gated:
            gate, value = hidden.chunk(2, -1)
            hidden = self.activation(gate) * value
        else:
            hidden = self.activation(hidden)
        self._add_product("last", hidden.flatten(0, 1), rows)
        return x

    def _product(self, name: str, x: Tensor) -> Tensor:
        """``x`` (..., K) times the matrix ``name``, plus its bias if it has one: (..., N)."""
        if name in self.scaled:
            product: Tensor = self.scaled[name](x)
            return product
        return F.linear(x, *self.matrix(name))

    def _add_product(self, name: str, x: Tensor, rows: Tensor) -> None:
        """Add ``x`` (R, K) times the matrix ``name``, plus its bias, to ``rows`` (R, N)."""
        if name in self.scaled:
            rows.add_(self.scaled[name](x))
            return
        weight, bias = self.matrix(name)
        assert bias is not None
        rows.add_(bias).addmm_(x, weight.t())

    def matrix(self, name: str) -> tuple[Tensor, Tensor | None]:
        """The weight (N, K) of a product, and its bias (N,), or None if it has none."""
        return getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias", None)

    def scale(self, name: str, product: nn.Module) -> None:
        """Let ``product`` compute a product from now on, in place of the block's own weight and bias."""
        self.scaled[name] = product
        for part in ("weight", "bias"):
            if hasattr(self, f"{name}_{part}"):
                setattr(self, f"{name}_{part}", None)


class _GeluInPlace(nn.Module):
    """GELU that overwrites its input, so that the widest tensor of a block is not held twice."""

    def __init__(self, approximate: str) -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        activated: Tensor = torch.ops.aten.gelu_(x, approximate=self.approximate)
        return activated


def _behind_norm(norm: Any, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    weight = at_least_float32(weight)
    shift = weight @ at_least_float32(norm.bias)
    return weight * at_least_float32(norm.weight), shift if bias is None else shift + at_least_float32(bias)


def _before_scale(scale: Tensor | None, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    weight = at_least_float32(weight)
    bias = weight.new_zeros(weight.shape[0]) if bias is None else at_least_float32(bias)
    if scale is None:
        return weight, bias
    gamma = at_least_float32(scale)
    return weight * gamma[:, None], bias * gamma
