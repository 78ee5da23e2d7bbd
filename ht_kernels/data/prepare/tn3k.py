"""TN3K (Gong et al., ISBI 2021): trainval-image, trainval-mask, test-image, test-mask, and the folds as JSON."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from ht_kernels.errors import InputError, reason

from ..layout import IMAGE_SUFFIXES, read_labels, read_mask_of, read_text
from ..names import find, key, text_of, visible
from .item import Download, Item


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
        files = [path for path in visible(images) if path.suffix.lower() in IMAGE_SUFFIXES]
        if not files:
            raise InputError(f"{images} has no images")
        labels = read_labels(label_file, download.classes) if labelled else {}
        for path in files:
            called = text_of(path)
            stem = Path(called).stem
            if labelled and key(called) not in labels:
                raise InputError(f"{label_file} has no label for {called}")
            split = "test"
            if part == "trainval" and splits:
                number = int(stem) if stem.isdecimal() else None
                if number not in splits:
                    raise InputError(f"{fold} does not name {called}, which is in {images}")
                split = splits[number]
            name = f"tn3k_{part}_{stem}.png"
            prescribed = None if part == "trainval" and not splits else split
            mask = partial(read_mask_of, find(masks / path.name))
            download.items.append(Item(name, path, mask, labels.get(key(called)), group=name, split=prescribed))
    return download


def _fold(path: Path) -> dict[int, str]:
    """Split by the number of an image."""
    try:
        fold = json.loads(read_text(path))
        return {int(number): split for split in ("train", "val") for number in fold[split]}
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(
            f'{path} is no fold of TN3K ({reason(error)}); expected {{"train": [0, ...], "val": [...]}}'
        ) from error
