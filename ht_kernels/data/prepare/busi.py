"""BUSI (Al-Dhabyani et al., Data in Brief 28, 2020): class folders, ``NAME (12).png`` beside ``NAME (12)_mask.png``.

An image with several lesions has ``_mask.png``, ``_mask_1.png``, ...; they are merged. Patients are not known.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ht_kernels.errors import InputError

from ..layout import CLASSES, read_mask_of
from ..names import text_of, visible
from .item import Download, Item

_NAME = re.compile(r"(?P<stem>\w+ \((?P<number>\d+)\))(?P<mask>_mask(_\d+)?)?\.png", re.IGNORECASE)


def read(source: Path) -> Download:
    """The images in SOURCE/benign and SOURCE/malignant; those of normal tissue have no lesion and are left out.

    Raises:
        InputError: a class folder is missing or has no images, or an image has no mask.
    """
    if not (source / "benign").is_dir() and (source / "Dataset_BUSI_with_GT").is_dir():
        source = source / "Dataset_BUSI_with_GT"
    download = Download("BUSI", [], classes=CLASSES["BUSI"])
    for label, kind in enumerate(download.classes):
        folder = source / kind
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}; expected BUSI's folders benign, malignant and normal")
        images: dict[Path, int] = {}
        masks: dict[str, list[Path]] = {}
        for path in visible(folder):
            if match := _NAME.fullmatch(text_of(path)):
                if match["mask"]:
                    masks.setdefault(match["stem"], []).append(path)
                else:
                    images[path] = int(match["number"])
        if not images:
            raise InputError(f"{folder} has no images; expected files such as '{kind} (1).png'")
        for path, number in sorted(images.items(), key=lambda pair: pair[1]):
            stem = Path(text_of(path)).stem
            if stem not in masks:
                raise InputError(f"{path} has no mask; expected {stem}_mask.png beside it")
            new = f"busi_{kind}_{number:03}.png"
            download.items.append(Item(new, path, partial(_merged, masks[stem]), label, group=new))
    normal = source / "normal"
    for path in visible(normal) if normal.is_dir() else []:
        if (match := _NAME.fullmatch(text_of(path))) and not match["mask"]:
            download.left_out[text_of(path)] = "normal tissue, no lesion"
    return download


def _merged(masks: list[Path], image: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    merged = np.zeros(size[::-1], np.uint8)
    for mask in masks:
        merged |= read_mask_of(mask, image, size)
    return merged
