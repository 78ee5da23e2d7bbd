"""Images that are in two splits of a data set, by their names."""

from __future__ import annotations

from pathlib import Path

from ht_kernels.errors import InputError

from .layout import split_names
from .names import key


def check_splits(root: Path, task: str, dataset: str) -> None:
    """Refuse a data set that trains on an image which it is measured on.

    Raises:
        InputError: an image of the train split is in the val split, or in the test split where there is one.
    """
    folder = root / task / dataset
    trained = {key(name) for name in split_names(root, task, dataset, "train")}
    for split in ("val", "test"):
        try:
            names = split_names(root, task, dataset, split)
        except InputError:  # a split that is not there, or that cannot be read, is reported where it is needed
            continue
        both = [name for name in names if key(name) in trained]
        if both:
            rest = f" and {len(both) - 1} more" if both[1:] else ""
            raise InputError(
                f"{folder / 'train.txt'} names {both[0]}{rest}, and so does {folder / f'{split}.txt'}: an image that "
                "is trained on cannot measure what was learned; take it out of one of the lists"
            )
