"""nnU-Net's layout: dataset.json, imagesTr/CASE_0000.png, labelsTr/CASE.png, and imagesTs with labelsTs where it is.

Read are 2-D images of one channel. Labels are named in dataset.json, as ``{"background": 0, "lesion": 1}`` in version 2
and ``{"0": "background", "1": "lesion"}`` in version 1.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ht_kernels.errors import InputError, reason

from ..layout import read_text
from ..names import text_of
from .found import Found, pictures
from .item import Download, Item, Unusable
from .mask_values import MOST_CLASSES, Coding
from .own import Own, said

_FIRST = "_0000"
_VOLUMES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".gipl")
_IGNORE = "ignore"


def read_nnunet(own: Own, source: Path) -> Download:
    """The cases of a data set; those of imagesTs are its test split where labelsTs holds their masks.

    An image with pixels labelled ``ignore`` is left out and reported, because training would have to learn them.

    Raises:
        InputError: dataset.json is missing, damaged or of regions, the files are volumes or of several channels, or
            there are no cases.
    """
    if own.classes:
        raise InputError("--classes is for images in folders and tables; nnU-Net's dataset.json names the classes")
    classes, ignored = _labels(source / "dataset.json")
    download = Download(own.name, [], mask_classes=classes)
    numbers = {float(number): number for number in range(len(classes) + (ignored is not None))}
    cases = []
    for part, split in (("Tr", None), ("Ts", "test")):
        images = _pictures(source / f"images{part}")
        masks = {mask.stem: mask for mask in _pictures(source / f"labels{part}")}
        if part == "Tr" and not (images and masks):
            raise InputError(
                f"{source} has no cases; expected images such as imagesTr/CASE{_FIRST}.png and labelsTr/CASE.png"
            )
        several = [image for image in images if image.stem[-5:-4] == "_" and image.stem[-4:].isdecimal()]
        channels = [image for image in several if not image.stem.endswith(_FIRST)]
        if channels:
            raise InputError(
                f"{source} has images of several channels, {said(channels)}, expected one, {_FIRST}: ultrasound is gray"
            )
        for image in images:
            mask = masks.pop(image.stem.removesuffix(_FIRST), None)
            if mask is None:
                download.left_out[image.place] = f"it has no mask in labels{part}"
            else:
                cases.append((image, mask, split))
        download.left_out |= {mask.place: "a mask without an image" for mask in masks.values()}
    patients, _ = own.patients([image for image, _, _ in cases])
    for image, mask, split in cases:
        name = f"{own.name.lower()}_{image.stem.removesuffix(_FIRST)}.png"
        read = partial(_classes_of, mask.path, Coding(numbers), ignored)
        download.items.append(Item(name, image.path, read, None, patients.get(image.path, name), split))
    return download


def _classes_of(
    path: Path, coding: Coding, ignored: int | None, image: Path, size: tuple[int, int]
) -> NDArray[np.uint8]:
    classes = coding.read(path, image, size)
    if ignored is not None and (classes == ignored).any():
        raise Unusable(f"{text_of(path)} has pixels labelled {_IGNORE}")
    return classes


def _pictures(folder: Path) -> list[Found]:
    if not folder.is_dir():
        return []
    volumes = [path for path in folder.iterdir() if path.name.lower().endswith(_VOLUMES)]
    if volumes:
        raise InputError(f"{volumes[0]} is a volume, which is not read: save each slice as PNG")
    return pictures(folder)


def _labels(path: Path) -> tuple[tuple[str, ...], int | None]:
    """The names of the classes from 0 on, and the number of the label ``ignore``, if there is one."""
    expected = 'expected {"labels": {"background": 0, "lesion": 1, ...}} or the numbers first'
    try:
        labels: dict[Any, Any] = json.loads(read_text(path))["labels"]
        of_regions = [name for name, value in labels.items() if isinstance(value, list)]
        if not of_regions:
            first = {str(name) for name in labels} >= {"0"}
            names = {int(k if first else v): str(v if first else k) for k, v in labels.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is no description of a data set of nnU-Net ({reason(error)}); {expected}") from error
    if of_regions:
        raise InputError(
            f"{path} has labels of regions, {', '.join(map(str, of_regions))}, which lie within each other; expected "
            "one number for each label"
        )
    ignored = next((number for number, name in names.items() if name == _IGNORE), None)
    if ignored is not None:
        del names[ignored]
    count = len(names)
    if sorted(names) != list(range(count)) or not 2 <= count <= MOST_CLASSES or ignored not in (None, count):
        raise InputError(f"{path} has the labels {', '.join(map(str, sorted(names)))}; expected 0, 1, ... without gaps")
    return tuple(names[number] for number in range(count)), ignored
