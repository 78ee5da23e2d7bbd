"""The classes that logits stand for: one rule for training, evaluation, export and video.

With K > 1 logits there are K classes, and the largest logit wins. A single logit tells two classes apart: class 1 where
it is above 0, and class 0, the background, elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def class_count(logits: int) -> int:
    """The number of classes that K logits tell apart: K, or 2 for a single logit."""
    return max(2, logits)


def classes_of(logits: Tensor) -> Tensor:
    """The class of each pixel (B, H, W) or frame (B,) of logits (B, K, H, W) or (B, K).

    The result is uint8, or int64 if there are more than 256 classes. Of equal logits the first wins. On a CPU torch's
    argmax over two logits takes a hundred times as long as to compare them, and over three twenty times as long as max.
    """
    if logits.shape[1] == 1:
        best = logits[:, 0] > 0
    elif logits.shape[1] == 2:
        best = logits[:, 1] > logits[:, 0]
    else:
        best = logits.max(1).indices
    return best if logits.shape[1] > 256 else best.to(torch.uint8)


def probabilities_of(logits: Tensor) -> Tensor:
    """The probability of each class, in dimension 1: (B, K, ...), or (B, 2, ...) for a single logit."""
    if logits.shape[1] > 1:
        return logits.softmax(1)
    return torch.cat([-logits, logits], 1).sigmoid()


def log_probabilities_of(logits: Tensor) -> Tensor:
    """The natural logarithm of :func:`probabilities_of`, finite where a probability is rounded to 0."""
    if logits.shape[1] > 1:
        return logits.log_softmax(1)
    return F.logsigmoid(torch.cat([-logits, logits], 1))


def names_of(logits: int, names: Sequence[str] | None) -> tuple[str, ...]:
    """A name for each class that K logits tell apart.

    ``names`` holds K names, which are all of them; for a single logit that is the name of class 1. None is for
    ``class 0``, ``class 1``, and so on; class 0 of a single logit is always the background.
    """
    if logits == 1:
        return "background", names[0] if names else "class 1"
    return tuple(names) if names else tuple(f"class {i}" for i in range(logits))
