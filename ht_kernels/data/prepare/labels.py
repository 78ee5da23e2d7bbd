"""Labels as they are written in tables and names of folders, as numbers of classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ht_kernels.errors import InputError

from ..layout import MOST_CLASSES

_NUMBER = re.compile(r"(\d+)(\.0*)?", re.ASCII)


def number_labels(labels: Mapping[str, str], classes: Sequence[str]) -> tuple[dict[str, int], tuple[str, ...]]:
    """The number of the class of each image by name, and the names of the classes, if they are known.

    Labels 0 to K - 1 are numbers of classes. Any others, be they words or numbers, are names: of classes in the order
    of ``classes`` or, without, in ascending order.

    Args:
        labels: the label of each image.
        classes: names of the classes; empty for those that are found.

    Raises:
        InputError: a label is no class, there are more labels than ``classes``, or there is only one.
    """
    written = {name: _plain(label) for name, label in labels.items()}
    found = sorted(set(written.values()), key=lambda label: (not label.isdecimal(), _size(label), label))
    if found == [str(number) for number in range(len(found))] and not set(found) <= set(classes):
        if classes and len(found) > len(classes):
            raise InputError(f"there are the labels 0 to {found[-1]}, and --classes names {', '.join(classes)}")
        names = tuple(classes)
        numbers = {label: int(label) for label in found}
    else:
        names = tuple(classes or found)
        unknown = [label for label in found if label not in names]
        if unknown:
            raise InputError(f"the label {unknown[0]} is none of the classes {', '.join(names)} of --classes")
        numbers = {name: number for number, name in enumerate(names)}
    if len(found) < 2:
        raise InputError(f"every image has the label {found[0]}, so there is nothing to tell apart")
    if max(map(numbers.__getitem__, found)) >= MOST_CLASSES:
        raise InputError(f"there are {len(found)} labels, expected {MOST_CLASSES} or less: are they names of images?")
    return {name: numbers[label] for name, label in written.items()}, names


def _plain(label: str) -> str:
    """A whole number without zeros in front and behind; else the label."""
    number = _NUMBER.fullmatch(label)
    return str(int(number[1])) if number else label


def _size(label: str) -> int:
    return int(label) if label.isdecimal() else 0
