"""Which parameters a method trains. Whatever it leaves alone stays as it is, bit for bit."""

from __future__ import annotations

import copy
import warnings
from typing import Any

from torch import nn

from ht_kernels.clip import HTCLIP
from ht_kernels.clip.injection import adapters
from ht_kernels.fold import blocks_to_run

_RANK, _ALPHA = 16, 32


def uses_adapters(method: str) -> bool:
    """Whether a method's model has HT adapters; the others are the baselines without."""
    return method in ("ht", "all")


def prepare(model: HTCLIP, method: str) -> None:
    """Make what the method trains trainable, in place, and nothing else.

    Blocks and adapters behind the last feature layer are never run, so they are never trained either.
    """
    model.requires_grad_(False)
    run = blocks_to_run(model.config.feature_layers)
    for part in model.children():
        if part is not model.clip_model:
            part.requires_grad_(True)
    for i, adapter in adapters(model.tower).items():
        adapter.requires_grad_(uses_adapters(method) and i < run)
    if method in ("full", "all"):
        tower: Any = model.tower
        blocks = set(tower.blocks.parameters())
        last = {*tower.visual.norm.parameters()} if hasattr(tower.visual, "norm") else set()
        for parameter in tower.visual.parameters():
            parameter.requires_grad_(parameter not in blocks and parameter not in last)
        for block in tower.blocks[:run]:
            block.requires_grad_(True)
    if method == "lora":
        _add_lora(model, run)


def merged(model: HTCLIP, method: str) -> HTCLIP:
    """The model as it is saved: a copy with the low-rank updates added to the tower's weights, for ``lora``."""
    if method != "lora":
        return model
    from peft.tuners.lora import LoraLayer

    model = copy.deepcopy(model)
    for parent in [m for m in model.modules() if any(isinstance(c, LoraLayer) for c in m.children())]:
        for name, child in parent.named_children():
            if isinstance(child, LoraLayer):
                child.merge()
                setattr(parent, name, child.get_base_layer().requires_grad_(True))
    return model


def _add_lora(model: HTCLIP, run: int) -> None:
    """Rank-stabilised LoRA on the attention of every block that is run, as published: rank 16, alpha 32."""
    from peft import LoraConfig, inject_adapter_in_model

    targets = [
        name
        for block in model.tower.blocks[:run]
        for name, module in model.clip_model.named_modules()
        if any(module is m for m in _attention(block))
    ]
    config = LoraConfig(r=_RANK, lora_alpha=_ALPHA, use_rslora=True, target_modules=targets)
    heads = [p for p in model.parameters() if p.requires_grad]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inject_adapter_in_model(config, model.clip_model)
    for parameter in heads:
        parameter.requires_grad_(True)


def _attention(block: Any) -> list[nn.Module]:
    """What of a block's attention peft can extend: the packed module itself, or its linear layers."""
    attention = block.attn
    if isinstance(attention, nn.MultiheadAttention):
        return [attention]
    return [m for m in attention.modules() if isinstance(m, nn.Linear)]
