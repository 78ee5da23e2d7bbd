"""Which images a model was trained on, and by which its best epoch was chosen: short hashes in its checkpoint."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ht_kernels.clip.checkpoint import BASELINE
from ht_kernels.weights import KEY, metadata_of

from .examples import Examples
from .fingerprint import used_in_training

_BYTES = 6
"""Of a hash. Among 10,000 images and 10,000 others there is a false pair once in three million times."""

_SPLITS = "train", "val"


def noted(earlier: Mapping[str, str] | None, train: Examples, val: Examples) -> dict[str, str]:
    """What a checkpoint notes of its images: the hashes of each split, 8 characters of base64 for an image.

    Args:
        earlier: the note of the checkpoint that the training started from, whose images count too.
        train, val: the examples of the training.
    """
    before = _read(earlier)
    now = {"train": _hashes(train.images), "val": _hashes(val.images)}
    return {split: base64.b64encode(b"".join(sorted(before[split].union(now[split])))).decode() for split in _SPLITS}


def remark(checkpoint: Path, examples: Examples) -> str | None:
    """A sentence that says how many of the images the training of a checkpoint has used; None if it used none.

    An image is recognised by its pixels in the model's size. An exported file has no note of its own: that of
    ``best.safetensors`` beside it counts. Where there is no note, as in checkpoints of older versions, only a whole
    split is recognised, by ``last.pt`` beside the checkpoint.
    """
    note = _note_of(checkpoint)
    if note is None:
        split = used_in_training(checkpoint, examples)
        counts = {name: len(examples) * (name == split) for name in _SPLITS}
    else:
        used, images = _read(note), _hashes(examples.images)
        trained = sum(image in used["train"] for image in images)
        chosen = sum(image in used["val"] - used["train"] for image in images)
        counts = {"train": trained, "val": chosen}
    return _sentence(len(examples), **counts)


def _sentence(images: int, train: int, val: int) -> str | None:
    if not train:
        by = f"the model's best epoch was chosen by {_of_these(val, images)}"
        return f"{by}, so {_their(images)} scores are a little too good" if val else None
    words = f"the model was trained on {_of_these(train, images)}"
    if train == images:
        return f"{words}, so {_their(images)} scores do not measure what was learned"
    words += f", and its best epoch was chosen by {val} more" if val else ""
    return f"{words}, so the scores do not measure what was learned"


def _of_these(part: int, images: int) -> str:
    if part < images:
        return f"{part} of these {images} images"
    return f"these {images} images" if images > 1 else "this image"


def _their(images: int) -> str:
    return "their" if images > 1 else "its"


def _hashes(images: Tensor) -> list[bytes]:
    """A short hash of the pixels of each image (C, S, S) uint8."""
    return [hashlib.blake2b(image.numpy().tobytes(), digest_size=_BYTES).digest() for image in images]


def _note_of(checkpoint: Path) -> Any:
    """What a checkpoint notes of its images; None where it notes nothing."""
    metadata = metadata_of(checkpoint)
    if metadata is None:  # exported, or published
        metadata = metadata_of(checkpoint.with_name("best.safetensors")) or {}
    try:
        return json.loads(metadata.get(KEY) or metadata[BASELINE])["trained_on"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _read(note: Any) -> dict[str, frozenset[bytes]]:
    """The hashes of each split; none of what is no note."""
    return {split: _hashes_in(note.get(split) if isinstance(note, Mapping) else None) for split in _SPLITS}


def _hashes_in(text: Any) -> frozenset[bytes]:
    try:
        content = base64.b64decode(text, validate=True)
    except (ValueError, TypeError):
        return frozenset()
    return frozenset(content[i : i + _BYTES] for i in range(0, len(content), _BYTES))
