"""The training methods: which parameters each one trains. All other parameters keep their exact values."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ht_kernels.clip import HTCLIP
from ht_kernels.clip.injection import adapters
from ht_kernels.errors import InputError

from .lora import add_lora, merge_lora
from .recipe import BASELINES, LAST, uses_adapters


def prepare(model: HTCLIP, method: str, lora_dropout: float = 0.0) -> None:
    """Set ``requires_grad`` of the model's parameters, so that exactly those that the method trains are trainable.

    The text tower is never trained, and neither are parts that the task does not run: for segmentation and
    classification these are the blocks and adapters after the last feature layer, the final norm and the projection.

    The model's ``familiarity`` is dropped, because training changes the features that it was calibrated with.

    Args:
        model: the model.
        method: one of :data:`ht_kernels.train.METHODS`.
        lora_dropout: the dropout of the inputs of the low-rank updates of ``lora``.

    Raises:
        InputError: the method trains only heads, and the model has none; it trains more blocks than the model runs; or
            it trains a network without a tower.
    """
    if method in BASELINES:
        raise InputError(f"the method {method} trains no tower: make its network with ht_kernels.train.new_baseline")
    if method == "heads" and model.config.task == "contrastive":
        raise InputError("the method heads trains heads alone, and a contrastive model has none; evaluate it untrained")
    if LAST.get(method, 0) > model.depth:
        raise InputError(f"the method {method} trains {LAST[method]} blocks, and the model runs {model.depth}")
    model.familiarity = None
    model.requires_grad_(False)
    for part in model.children():
        if part is not model.clip_model:
            part.requires_grad_(True)
    if method in LAST:
        for block in model.tower.blocks[model.depth - LAST[method] : model.depth]:
            block.requires_grad_(True)
    elif method in ("full", "all"):
        for parameter in model.tower_parameters().values():
            parameter.requires_grad_(True)
    for i, adapter in adapters(model.tower).items():
        adapter.requires_grad_(uses_adapters(method) and i < model.depth)
    if method == "lora":
        add_lora(model, lora_dropout)


def merged(model: HTCLIP, method: str) -> HTCLIP:
    """The model to save: for ``lora`` a copy with the low-rank updates added to its weights, otherwise ``model``."""
    if method != "lora":
        return model
    model = copy.deepcopy(model)
    merge_lora(model)
    return model


@contextmanager
def text_tower_in_training(model: HTCLIP) -> Iterator[None]:
    """A context in which the text tower of a contrastive model is in training mode: its dropout acts."""
    clip_model: Any = model.clip_model
    parts = [part for part in clip_model.children() if part is not clip_model.visual]
    try:
        for part in parts:
            part.train()
        yield
    finally:
        for part in parts:
            part.eval()
