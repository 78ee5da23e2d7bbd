"""What is wrong with the images of a training taken together, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from torch import Tensor

from .examples import Examples

_NAMED = 5
"""So many images are named; the others are counted."""


def same_pixels(train: Examples, others: Iterable[tuple[str, Tensor]], split: str) -> list[str]:
    """A sentence if images of another split have the same pixels as training images, in the model's size.

    ``others`` are the names and pixels of the images of that split.
    """
    first: dict[bytes, str] = {}
    for name, image in zip(train.names, train.images, strict=True):
        first.setdefault(image.numpy().tobytes(), name)
    pairs = [(name, first[pixels]) for name, image in others if (pixels := image.numpy().tobytes()) in first]
    if not pairs:
        return []
    named = ", ".join(f"{name} = {trained}" for name, trained in pairs[:_NAMED])
    rest = f" and {len(pairs) - _NAMED} more" if len(pairs) > _NAMED else ""
    return [
        f"images of the {split} split have the same pixels as images that are trained on: {named}{rest}; their scores "
        "do not measure what was learned"
    ]


def rare_labels(train: Examples, classes: Sequence[str]) -> list[str]:
    """A sentence for each class of which there is no training image, or one alone."""
    counts = Counter(train.targets.tolist())
    found = {0: "no image", 1: "one image"}
    return [
        f"the train split has {found[counts[label]]} of the label {label}{'' if name == str(label) else f' ({name})'}: "
        "the model cannot learn what tells it apart"
        for label, name in enumerate(classes)
        if counts[label] in found
    ]
