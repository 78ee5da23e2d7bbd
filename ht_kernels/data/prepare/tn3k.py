"""TN3K (Gong et al., ISBI 2021): trainval-image, trainval-mask, test-image, test-mask, and the folds as JSON."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from ht_kernels.errors import InputError

from ..layout import read_labels, read_mask, read_text
from .item import Download, Item

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
_BLACK = 127
"""Gray value up to which a mask is black. Masks are stored as JPEG, which leaves grays along their edges."""


def read(source: Path) -> Download:
    """The images of both parts. The test set stays the test set, and fold 0 divides the other part.

    Without ``tn3k-trainval-fold0.json`` the first part is split anew. Labels come from label4trainval.csv and
    label4test.csv where both are there. Its authors chose one image per patient and view, so each is its own group.

    Raises:
        InputError: a folder or a mask is missing, or the folds do not fit the images.
    """
    fold = source / "tn3k-trainval-fold0.json"
    splits = _fold(fold) if fold.exists() else {}
    label_files = {part: source / f"label4{part}.csv" for part in ("trainval", "test")}
    labelled = all(path.exists() for path in label_files.values())
    download = Download("TN3K", [], classes=("benign", "malignant") if labelled else ())
    for part, label_file in label_files.items():
        images, masks = source / f"{part}-image", source / f"{part}-mask"
        for folder in (images, masks):
            if not folder.is_dir():
                raise InputError(
                    f"there is no folder {folder}; expected TN3K's trainval-image, trainval-mask, test-image, test-mask"
                )
        files = sorted(p for p in images.iterdir() if p.suffix.lower() in _SUFFIXES)
        if not files:
            raise InputError(f"{images} has no images")
        labels = read_labels(label_file, download.classes) if labelled else {}
        for path in files:
            if labelled and path.name not in labels:
                raise InputError(f"{label_file} has no label for {path.name}")
            split = "test"
            if part == "trainval" and splits:
                if not path.stem.isdecimal() or int(path.stem) not in splits:
                    raise InputError(f"{fold} does not name {path.name}, which is in {images}")
                split = splits[int(path.stem)]
            name = f"tn3k_{part}_{path.stem}.png"
            prescribed = None if part == "trainval" and not splits else split
            mask = partial(read_mask, masks / path.name, above=_BLACK)
            download.items.append(Item(name, path, mask, labels.get(path.name), group=name, split=prescribed))
    return download


def _fold(path: Path) -> dict[int, str]:
    """Split by the number of an image."""
    try:
        fold = json.loads(read_text(path))
        return {int(number): split for split in ("train", "val") for number in fold[split]}
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f'{path} is no fold of TN3K ({error}); expected {{"train": [0, ...], "val": [...]}}'
        ) from error
