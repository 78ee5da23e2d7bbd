"""A fingerprint of a training run: its options, its data and its frozen weights.

A run is resumed only if its fingerprint is the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ht_kernels.clip import HTCLIP
from ht_kernels.errors import InputError

from .examples import Examples
from .recipe import Recipe


def fingerprint(model: HTCLIP, recipe: Recipe, train: Examples, val: Examples) -> dict[str, Any]:
    """Return the options of the recipe, the model's configuration, and hashes, by name.

    ``epochs`` and ``patience``, which say when a training ends, are left out. The hashes cover the examples (images,
    names and targets, in order), what was taken from a checkpoint at the start, and all weights that are not trained.
    """
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    frozen = {name: tensor for name, tensor in model.state_dict().items() if name not in trained}
    return {
        **_options(recipe),
        **{f"the model's {name}": value for name, value in asdict(model.config).items()},
        "the training data": hash_examples(train),
        "the validation data": hash_examples(val),
        "what the model takes from the checkpoint of --from": model.started_from,
        "the frozen weights": hash_tensors(frozen),
    }


def check_resume(path: Path, recipe: Recipe) -> None:
    """Refuse to go on from the state of a training with other options, before data is read.

    A state that is damaged is left to :class:`ht_kernels.train.Trainer`, which compares all else.

    Raises:
        InputError: an option of the recipe is another than that of the training.
    """
    try:
        then = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["made_of"]
        changed = difference(then, _options(recipe))
    except Exception:
        return
    if changed is not None:
        raise InputError(cannot_resume(path, changed))


def cannot_resume(path: Path, changed: str) -> str:
    """A sentence that refuses to go on from the state of a training; ``changed`` is that of :func:`difference`."""
    return f"{path} cannot be resumed: {changed}; train as before, name another output folder, or remove {path.name}"


def _options(recipe: Recipe) -> dict[str, Any]:
    """The options of a recipe by which a training has to go on."""
    options = {name: value for name, value in asdict(recipe).items() if name not in ("epochs", "patience")}
    return {f"the option {name}": value for name, value in options.items()}


def difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """A clause that says what differs first between two fingerprints, or None if they are equal."""
    for name, value in now.items():
        if then.get(name) != value:
            is_hash = not name.startswith(("the option ", "the model's "))
            return f"{name} changed" if is_hash else f"{name} was {then.get(name)} and is {value} now"
    return None


def used_in_training(checkpoint: Path, examples: Examples) -> str | None:
    """For which split of its training the examples were, train or val, as ``last.pt`` beside a checkpoint says.

    None where there is no such file, or the examples are none of the splits: a part of one is not found.
    """
    try:
        state = torch.load(checkpoint.parent / "last.pt", map_location="cpu", weights_only=True, mmap=True)
        made_of = dict(state["made_of"])
    except Exception:  # missing, damaged, or of something else
        return None
    now = hash_examples(examples)
    splits = {"the training data": "train", "the validation data": "val"}
    return next((split for name, split in splits.items() if made_of.get(name) == now), None)


def hash_examples(examples: Examples) -> str:
    """A hash of the images, names and targets, in order."""
    words = "\n".join((*examples.names, *examples.texts))
    return hash_tensors({"images": examples.images, "targets": examples.targets, words: torch.empty(0)})


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """A hash of the names, dtypes, shapes and values of tensors."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
