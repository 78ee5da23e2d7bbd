"""Masks that are read as two classes, a lesion and the rest, and have the numbers of more. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ht_kernels.errors import InputError
from ht_kernels.media.class_mask import MOST, numbers_in
from ht_kernels.media.mask import read_mask

from .layout import mask_path, split_names
from .names import find

_ONE = 1, 2**8 - 1, 2**16 - 1
"""What a lesion alone is drawn with: 1, or white in 8 or 16 bits."""


def check_two_values(root: Path, dataset: str, splits: Sequence[str], named: bool, advice: str) -> None:
    """Refuse masks that are read as two classes and have the numbers of more.

    A mask alone may have two values, 0 and 2, and another 0 and 1: so all are looked at. Masks that cannot be read are
    passed over.

    Args:
        root: the folder with ``all`` and ``segmentation``.
        dataset: the data set, such as BUSI.
        splits: those whose masks are looked at.
        named: whether the classes were named: then values that are no small numbers may differ from mask to mask.
        advice: the end of the message, which says what to do.

    Raises:
        InputError: they are such masks, or a split is missing.
    """
    names = [name for split in splits for name in split_names(root, "segmentation", dataset, split)]
    masks: Counter[int] = Counter()
    lesions: set[int] = set()
    several = False
    for name in names:
        path = find(mask_path(root, name))
        numbers = numbers_in(path)
        masks.update(numbers)
        if len(numbers) > 2:
            several = several or _are_classes(path, numbers)
        elif numbers[-1:] > (0,) and (numbers[-1] < MOST or not named):
            lesions.add(1 if numbers[-1] in _ONE else numbers[-1])
    if several or len(lesions) > 1:
        found = ", ".join(f"{value} in {count}" for value, count in sorted(masks.items())[:MOST])
        found += ", ..." if len(masks) > MOST else ""
        raise InputError(
            f"the {len(names)} masks of {dataset} have more than two values, so they are not read as two classes. "
            f"The values, and in how many masks they are: {found}. {advice}"
        )


def _are_classes(path: Path, numbers: Sequence[int]) -> bool:
    """Whether three or more values of a mask are classes, and not the gray edges of one."""
    if numbers[-1] < MOST:
        return True
    try:
        read_mask(path)
    except InputError:
        return True
    return False
