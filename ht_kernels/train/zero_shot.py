"""Zero-shot classification: an image gets the class whose prompts are most similar to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ht_kernels.clip import HTCLIP
from ht_kernels.data.layout import read_text
from ht_kernels.errors import InputError

from .losses import TEMPERATURE
from .metrics import embed_texts

TEMPLATES = (
    "an ultrasound image of a {} lesion.",
    "a B-mode ultrasound scan showing a {} lesion.",
    "a sonogram of a {} lesion.",
    "a grayscale ultrasound picture with a {} lesion.",
    "a {} lesion, seen with ultrasound.",
)
"""The default prompts, for class names that describe a lesion, such as "benign"."""


def read_templates(path: Path) -> tuple[str, ...]:
    """Read prompts from a text file, one per line.

    Raises:
        InputError: the file cannot be read or has no prompts, or a prompt does not contain ``{}``, the place for the
            class, exactly once.
    """
    templates = tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
    for template in templates:
        if template.count("{}") != 1:
            raise InputError(f"{path}: {template!r} came, expected a sentence with {{}} once, where the class goes")
    if not templates:
        raise InputError(f"{path} has no templates; expected one a line, such as {TEMPLATES[0]!r}")
    return templates


def embed_classes(model: HTCLIP, classes: Sequence[str], templates: Sequence[str] = TEMPLATES) -> Tensor:
    """The embedding of each class, (K, E) of unit length, on the model's device: the mean over its prompts."""
    prompts = [template.replace("{}", name) for name in classes for template in templates]
    every = embed_texts(model, prompts).view(len(classes), len(templates), -1)
    return F.normalize(every.mean(1), dim=-1)


def class_probabilities(images: Tensor, classes: Tensor) -> Tensor:
    """The class probabilities (N, K) of image embeddings (N, E), given class embeddings (K, E).

    They are the softmax of the cosine similarities divided by the temperature of the training loss.
    """
    return torch.softmax(images.float() @ classes.float().t() / TEMPERATURE, dim=-1)
