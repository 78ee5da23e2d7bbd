"""What a training is made of, so that one that is resumed is the same: options, data, and what is frozen."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ht_kernels.clip import HTCLIP

from .examples import Examples
from .recipe import Recipe


def fingerprint(model: HTCLIP, recipe: Recipe, train: Examples, val: Examples) -> dict[str, Any]:
    """Values by name: those of the recipe but for ``epochs``, those of the model, and hashes of what has no short form.

    Hashes are of the images with names and targets, in their order, and of all weights that are not trained.
    """
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    frozen = {name: tensor for name, tensor in model.state_dict().items() if name not in trained}
    options = {name: value for name, value in asdict(recipe).items() if name != "epochs"}
    return {
        **{f"the option {name}": value for name, value in options.items()},
        **{f"the model's {name}": value for name, value in asdict(model.config).items()},
        "the training data": _hash_examples(train),
        "the validation data": _hash_examples(val),
        "the frozen weights": _hash(frozen),
    }


def difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """What differs first, as a clause; None where nothing does."""
    for name, value in now.items():
        if then.get(name) != value:
            is_hash = not name.startswith(("the option ", "the model's "))
            return f"{name} changed" if is_hash else f"{name} was {then.get(name)} and is {value} now"
    return None


def _hash_examples(examples: Examples) -> str:
    words = "\n".join((*examples.names, *examples.texts))
    return _hash({"images": examples.images, "targets": examples.targets, words: torch.empty(0)})


def _hash(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
