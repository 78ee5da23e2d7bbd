"""LoRA of the attention layers, by peft, with the published settings: rank-stabilised, rank 16, alpha 32."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ht_kernels.clip import HTCLIP

_RANK, _ALPHA = 16, 32


class SplitAttention(nn.Module):
    """An ``nn.MultiheadAttention`` whose packed input projection is a Linear, so that peft can extend it.

    peft also accepts the packed form. But then it adds the update to the frozen weights and subtracts it again at every
    call, and the rounding errors add up. Blocks call this module as they call the original:
    ``attention(x, x, x, attn_mask=...)[0]``.

    Args:
        packed: the attention to replace. Query, key and value must have the same width. The parameters are shared.
    """

    def __init__(self, packed: Any) -> None:
        super().__init__()
        self.heads, self.batch_first = packed.num_heads, packed.batch_first
        self.in_proj = _linear(packed.in_proj_weight, packed.in_proj_bias)
        self.out_proj = _linear(packed.out_proj.weight, packed.out_proj.bias)

    def forward(self, x: Tensor, *_: Any, attn_mask: Tensor | None = None, **__: Any) -> tuple[Tensor, None]:
        x = x if self.batch_first else x.transpose(0, 1)
        batch, tokens, _dim = x.shape
        q, k, v = self.in_proj(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask)
        out = self.out_proj(mixed.transpose(1, 2).reshape(batch, tokens, -1))
        return (out if self.batch_first else out.transpose(0, 1)), None


def add_lora(model: HTCLIP, dropout: float) -> None:
    """Add LoRA to the attention of every block that is run. The rest of the tower is then frozen.

    ``dropout`` is the probability with which an input of the low-rank updates is dropped in training.
    """
    from peft import LoraConfig, inject_adapter_in_model

    targets = set()
    for block in model.tower.blocks[: model.depth]:
        attention: Any = block.attn
        if isinstance(attention, nn.MultiheadAttention):
            block.attn = attention = SplitAttention(attention)
        targets |= {m for m in attention.modules() if isinstance(m, nn.Linear)}
    names = [name for name, module in model.clip_model.named_modules() if module in targets]
    config = LoraConfig(r=_RANK, lora_alpha=_ALPHA, lora_dropout=dropout, use_rslora=True, target_modules=names)
    others = [p for p in model.parameters() if p.requires_grad]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inject_adapter_in_model(config, model.clip_model)
    for parameter in others:
        parameter.requires_grad_(True)


def merge_lora(model: HTCLIP) -> None:
    """Add the low-rank updates to the weights, in place, and remove the LoRA layers.

    The tower then has its original structure, and the weights of its attention are trainable.
    """
    from peft.tuners.lora import LoraLayer

    for parent in [m for m in model.modules() if any(isinstance(c, LoraLayer) for c in m.children())]:
        for name, child in parent.named_children():
            if isinstance(child, LoraLayer):
                child.merge()
                setattr(parent, name, child.get_base_layer().requires_grad_(True))
    for block in model.tower.blocks:
        if isinstance(block.attn, SplitAttention):
            block.attn = _pack(block.attn)


def _pack(split: SplitAttention) -> nn.Module:
    weight = split.out_proj.weight
    with torch.device("meta"):
        packed: Any = nn.MultiheadAttention(
            weight.shape[0], split.heads, batch_first=split.batch_first, dtype=weight.dtype
        )
    packed.in_proj_weight, packed.in_proj_bias = split.in_proj.weight, split.in_proj.bias
    packed.out_proj.weight, packed.out_proj.bias = weight, split.out_proj.bias
    packed.train(split.training)
    module: nn.Module = packed
    return module


def _linear(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    """A Linear that shares these parameters."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = weight
    linear.register_parameter("bias", bias)
    return linear
