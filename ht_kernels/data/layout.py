"""The published layout of a folder of ultrasound data, and how its files are read.

all/images/NAME.png  all/masks/NAME.png          the mask of an image has its name
segmentation/DATASET/train.txt val.txt test.txt  names of images, one a line
classification/DATASET/labels.csv                image,label with a header or without; labels count from 0
classification/DATASET/train.txt val.txt test.txt
contrastive/DATASET/captions.csv                 image,caption with a header or without; an image may have several
contrastive/DATASET/train.txt val.txt test.txt
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ht_kernels.errors import InputError
from ht_kernels.media.opening import read_image
from ht_kernels.media.preprocess import preprocess

DATASETS = ("BUSI", "DDTI", "TN3K", "Prostate", "LN-INT", "LN-EXT")
"""The data sets of the publication; any other folder of the same layout does as well."""

SPLITS = ("train", "val", "test")
TASKS = ("segmentation", "classification", "contrastive")


def image_path(root: Path, name: str) -> Path:
    """Where an image lies."""
    return root / "all" / "images" / name


def mask_path(root: Path, name: str) -> Path:
    """Where the mask of an image lies."""
    return root / "all" / "masks" / name


def split_names(root: Path, task: str, dataset: str, split: str) -> list[str]:
    """Names of the images in a split.

    Raises:
        InputError: there is no such folder, data set or split, or the split is empty or names an image twice.
    """
    if split not in SPLITS:
        raise InputError(f"split {split!r} is unknown; expected one of {', '.join(SPLITS)}")
    folder = root / task / dataset
    if not folder.is_dir():
        found = sorted(p.name for p in (root / task).glob("*") if p.is_dir())
        there = f"there are {', '.join(found)}" if found else f"{root} holds no {task} data; see ht-kernels prepare"
        raise InputError(f"there is no folder {folder}: {there}")
    path = folder / f"{split}.txt"
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not names:
        raise InputError(f"{path} names no images: the {split} split is empty")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"{path} names {name} twice; expected each image once")
        if Path(name).name != name:
            raise InputError(f"{path} names {name}, expected the name of a file in all/images without folders")
        seen.add(name)
    return names


def read_labels(path: Path, classes: tuple[str, ...] | None) -> dict[str, int]:
    """Labels by image from a CSV file of image,label.

    Raises:
        InputError: a row is no such pair, a label is not a class, or an image has two labels.
    """
    labels: dict[str, int] = {}
    for number, row in enumerate(csv.reader(read_text(path).splitlines()), 1):
        if not row or (number == 1 and row[-1].strip() == "label"):
            continue
        if len(row) != 2 or not row[1].strip().isdecimal():
            raise InputError(f"{path}, line {number}: {','.join(row)!r} came, expected an image's name and a number")
        name, label = row[0].strip(), int(row[1])
        if classes is not None and label >= len(classes):
            expected = ", ".join(f"{i} ({c})" for i, c in enumerate(classes))
            raise InputError(f"{path}, line {number}: {name} has label {label}, expected one of {expected}")
        if labels.setdefault(name, label) != label:
            raise InputError(f"{path}, line {number}: {name} has label {label}, and {labels[name]} before")
    if not labels:
        raise InputError(f"{path} has no labels; expected lines of an image's name, a comma and a number")
    return labels


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        InputError: it is missing or cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def read_gray(path: Path) -> Image.Image:
    """The picture in an image or DICOM file, as 8-bit gray (ITU-R 601 luma).

    Raises:
        InputError: the file is missing or damaged, or has several pictures.
    """
    return read_image(path).convert("L")


def read_rgb(path: Path) -> Image.Image:
    """The picture in an image or DICOM file, as 8-bit RGB.

    Raises:
        InputError: as :func:`read_gray`.
    """
    return read_image(path).convert("RGB")


def read_mask(path: Path, image: Path, size: tuple[int, int], above: int = 0) -> NDArray[np.uint8]:
    """The mask of an image whose (width, height) is ``size``, as (height, width) uint8.

    It is 1 where the file's gray value is larger than ``above``, and 0 elsewhere.

    Raises:
        InputError: the mask is missing, damaged, or of another size.
    """
    if not path.is_file():
        raise InputError(f"the mask {path} of {image} is missing")
    mask = read_gray(path)
    if mask.size != size:
        came, expected = "x".join(map(str, mask.size)), "x".join(map(str, size))
        raise InputError(f"the mask {path} is {came} pixels, but its image {image} is {expected}; expected the same")
    return (np.asarray(mask) > above).astype(np.uint8)


def to_input(image: Image.Image, size: int) -> Tensor:
    """A gray image as the models take it, (3, size, size) float32 in [0, 1].

    As published: resized by :func:`ht_kernels.media.preprocess.preprocess`, repeated to 3 channels, no mean and
    standard deviation.
    """
    pixels = preprocess(np.asarray(image), (size, size))[0]
    return pixels.float().div_(255).expand(3, -1, -1).contiguous()
