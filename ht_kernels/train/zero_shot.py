"""Zero-shot classification: an image gets the class whose prompts are most similar to it, in the mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ht_kernels.clip import HTCLIP
from ht_kernels.data.layout import read_text
from ht_kernels.errors import InputError

from .metrics import embed_texts

TEMPLATES = (
    "an ultrasound image of a {} lesion.",
    "a B-mode ultrasound scan showing a {} lesion.",
    "a sonogram of a {} lesion.",
    "a grayscale ultrasound picture with a {} lesion.",
    "a {} lesion, seen with ultrasound.",
)
"""The default prompts, for class names that describe a lesion, such as "benign"."""

_SCALE = 100.0
"""The published factor by which similarities are multiplied before the softmax."""


def fill(classes: Sequence[str], templates: Sequence[str] = TEMPLATES) -> dict[str, tuple[str, ...]]:
    """The prompts of each class: every template with the class in the place of ``{}``."""
    return {name: tuple(template.replace("{}", name) for template in templates) for name in classes}


def read_prompts(path: Path, classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read the prompts of each class from a text file with a sentence a line.

    Either every line is a template, a sentence with ``{}`` once, where the class goes. Or every line is
    ``class: sentence``, a sentence for that class alone; classes may have different numbers of them.

    Raises:
        InputError: the file cannot be read, is empty, mixes both forms, has a line of neither form, or has no sentence
            for one of the classes.
    """
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{path} has no sentences; expected one a line, such as {TEMPLATES[0]!r}")
    if any("{}" in line for line in lines):
        for line in lines:
            if line.count("{}") != 1:
                raise InputError(f"{path}: {line!r} came, expected a sentence with {{}} once, where the class goes")
        return fill(classes, lines)
    prompts: dict[str, list[str]] = {name: [] for name in classes}
    for line in lines:
        name = next((name for name in classes if line.startswith(f"{name}:")), None)
        sentence = "" if name is None else line.removeprefix(f"{name}:").strip()
        if name is None or not sentence:
            raise InputError(
                f"{path}: {line!r} came, expected a sentence with {{}} once, where the class goes, or a class, a colon "
                f"and a sentence for it; the classes are {', '.join(classes)}"
            )
        prompts[name].append(sentence)
    missing = [name for name, sentences in prompts.items() if not sentences]
    if missing:
        raise InputError(f"{path} has no sentence for {missing[0]}; expected lines such as '{missing[0]}: sentence'")
    return {name: tuple(sentences) for name, sentences in prompts.items()}


def embed_classes(model: HTCLIP, prompts: Mapping[str, Sequence[str]]) -> Tensor:
    """The embedding of each class, (K, E), on the model's device: the mean over the embeddings of its prompts.

    It is not scaled to unit length: the product with an image's embedding is then the mean of its similarities to the
    prompts, as published.
    """
    return torch.stack([embed_texts(model, sentences).mean(0) for sentences in prompts.values()])


def class_probabilities(images: Tensor, classes: Tensor) -> Tensor:
    """The class probabilities (N, K) of image embeddings (N, E), given class embeddings (K, E).

    They are the softmax of 100 times the products, as published.
    """
    return torch.softmax(_SCALE * images.float() @ classes.float().t(), dim=-1)
