"""Which parameters a method trains. Whatever it leaves alone stays as it is, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch import nn

from ht_kernels.clip import HTCLIP
from ht_kernels.clip.injection import adapters
from ht_kernels.errors import InputError

from .lora import add_lora, merge_lora


def uses_adapters(method: str) -> bool:
    """Whether a method's model has HT adapters; the others are the baselines without."""
    return method in ("ht", "all")


def prepare(model: HTCLIP, method: str) -> None:
    """Make what the method trains trainable, in place, and nothing else; a text tower never is.

    What is never run is never trained either: blocks and adapters behind the last feature layer, and there the final
    norm and projection.

    Raises:
        InputError: the method trains heads alone, and the model has none.
    """
    if method == "heads" and model.config.task == "contrastive":
        raise InputError("the method heads trains heads alone, and a contrastive model has none; evaluate it untrained")
    model.requires_grad_(False)
    for part in model.children():
        if part is not model.clip_model:
            part.requires_grad_(True)
    if method in ("full", "all"):
        for parameter in _tower_parameters(model):
            parameter.requires_grad_(True)
    for i, adapter in adapters(model.tower).items():
        adapter.requires_grad_(uses_adapters(method) and i < model.depth)
    if method == "lora":
        add_lora(model)


def merged(model: HTCLIP, method: str) -> HTCLIP:
    """The model as it is saved: a copy with the low-rank updates added to the tower's weights, for ``lora``."""
    if method != "lora":
        return model
    model = copy.deepcopy(model)
    merge_lora(model)
    return model


def _tower_parameters(model: HTCLIP) -> Iterator[nn.Parameter]:
    """Of the vision tower, those that are run."""
    tower, visual = model.tower, model.tower.visual
    if model.config.task == "contrastive":
        clip_model: Any = model.clip_model
        yield from clip_model.visual.parameters()
        return
    yield from (p for name, p in visual.named_parameters(recurse=False) if name != "proj")
    for part in (tower.patch_embedding, tower.pre_norm, *tower.blocks[: model.depth]):
        yield from part.parameters()
