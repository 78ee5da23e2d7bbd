"""The published layout of a folder of ultrasound data, and how its files are read.

all/images/NAME.png  all/masks/NAME.png          the mask of an image has its name
segmentation/DATASET/train.txt val.txt test.txt  names of images, one a line
segmentation/DATASET/classes.txt                 may be there: a name a line, for classes 0, 1, ...
classification/DATASET/labels.csv                image,label; labels count from 0
classification/DATASET/train.txt val.txt test.txt
classification/DATASET/classes.txt               may be there, for labels
contrastive/DATASET/captions.csv                 image,caption; an image may have several
contrastive/DATASET/train.txt val.txt test.txt

The tables are read with a header line and without. The text files are UTF-8, with line ends of any system.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ht_kernels.choices import LESIONS, TASKS
from ht_kernels.errors import InputError, did_you_mean, reason
from ht_kernels.media.class_mask import MOST, read_class_mask
from ht_kernels.media.mask import read_mask
from ht_kernels.media.opening import is_hidden, read_image

from .expected import expected_layout
from .names import key, on_disk, visible

if TYPE_CHECKING:
    from torch import Tensor

DATASETS = ("BUSI", "DDTI", "TN3K", "Prostate", "LN-INT", "LN-EXT")
"""The data sets of the publication; any other folder of the same layout does as well."""

CLASSES = {"BUSI": ("benign", "malignant"), "PHANTOM": ("none", *LESIONS)}
"""Names of the labels of data sets whose publications give them, and of what ``ht-kernels phantom`` writes."""

SPLITS = ("train", "val", "test")

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
"""Endings of the images in downloads, in lower case."""

MOST_CLASSES = 1000
"""Labels are below this number."""

_LABEL = re.compile(r"0*(\d{1,9})(\.0*)?", re.ASCII)


def image_path(root: Path, name: str) -> Path:
    """Where an image lies."""
    return root / "all" / "images" / on_disk(name)


def mask_path(root: Path, name: str) -> Path:
    """Where the mask of an image lies."""
    return root / "all" / "masks" / on_disk(name)


def split_names(root: Path, task: str, dataset: str, split: str) -> list[str]:
    """Names of the images in a split.

    The split ``all`` is train, val and test together.

    Raises:
        InputError: there is no such folder, data set or split, or the split is empty, or it names an image twice, a
            hidden file or a folder.
    """
    if split not in (*SPLITS, "all"):
        raise InputError(f"split {split!r} is unknown; expected one of {', '.join(SPLITS)} or all")
    _check_name(dataset)
    folder = root / task / dataset
    if not folder.is_dir():
        found = _datasets(root, task)
        there = f"there are {', '.join(found)}" if found else f"{root} holds no {task} data{expected_layout(task)}"
        raise InputError(f"there is no folder {folder}: {there}{did_you_mean(dataset, found)}")
    seen: set[str] = set()
    return [name for part in (SPLITS if split == "all" else (split,)) for name in _listed(folder / f"{part}.txt", seen)]


def check_dataset(root: Path, dataset: str) -> None:
    """Refuse a data set that a folder has for no task.

    Raises:
        InputError: it has none of this name.
    """
    if not root.is_dir():
        raise InputError(f"there is no folder {root}; expected one in the published layout, see ht-kernels prepare")
    _check_name(dataset)
    if not any((root / task / dataset).is_dir() for task in TASKS):
        found = sorted({name for task in TASKS for name in _datasets(root, task)})
        there = f"there are {', '.join(found)}" if found else f"{root} holds none; see ht-kernels prepare"
        raise InputError(f"there is no data set {dataset} in {root}: {there}{did_you_mean(dataset, found)}")


def _check_name(dataset: str) -> None:
    """Refuse the path of a folder: results are written into folders of the names of data sets."""
    name = Path(dataset).name
    if name != dataset or name == "..":
        meant = f", such as {name}" if name not in ("", "..") else ""
        raise InputError(f"{dataset} came for a data set, expected its name, without folders{meant}")


def _datasets(root: Path, task: str) -> list[str]:
    """The names of the data sets that a folder has for a task."""
    return [path.name for path in visible(root / task) if path.is_dir()] if (root / task).is_dir() else []


def _listed(path: Path, seen: set[str]) -> list[str]:
    """The names in the list of a split. Their keys must not be in ``seen``, and are added to it."""
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not names:
        raise InputError(f"{path} names no images: the {path.stem} split is empty")
    for name in names:
        if key(name) in seen:
            raise InputError(f"{path} names {name} twice; expected each image once")
        if "/" in name or "\\" in name or name == "..":
            raise InputError(f"{path} names {name}, expected the name of a file in all/images without folders")
        if is_hidden(name):
            raise InputError(f"{path} names {name}, a hidden file that is no image; take its line out")
        seen.add(key(name))
    return names


def class_names(root: Path, task: str, dataset: str) -> tuple[str, ...] | None:
    """The names of classes 0, 1, ... from ``classes.txt`` of a data set, or None where it has no such file.

    Raises:
        InputError: the file cannot be read, or its lines are no names of classes; see :func:`check_class_names`.
    """
    path = root / task / dataset / "classes.txt"
    if not path.exists():
        return None
    names = tuple(line.strip() for line in read_text(path).rstrip().splitlines())
    check_class_names(names, task, str(path))
    return names


def check_class_names(names: Sequence[str], task: str, said_by: str) -> None:
    """Raise InputError unless names are those of classes: two or more, all different, none empty.

    A segmentation has at most :data:`ht_kernels.media.class_mask.MOST` classes, a classification
    :data:`MOST_CLASSES`. ``said_by`` is what the names come from, for the message.
    """
    most = MOST if task == "segmentation" else MOST_CLASSES
    if not 2 <= len(names) <= most:
        first = ", the background first" if task == "segmentation" else ""
        came = f"{len(names)} class{'' if len(names) == 1 else 'es'}"
        raise InputError(f"{said_by} names {came}, expected 2 to {most}{first}")
    for number, name in enumerate(names):
        if not name:
            raise InputError(f"{said_by} has an empty name for class {number}, expected a name for each class")
        if not name.isprintable():
            raise InputError(f"{said_by} names class {number} {name!r}, expected characters that can be printed")
        if name in names[:number]:
            raise InputError(
                f"{said_by} names class {names.index(name)} and class {number} {name}, expected another name for each"
            )


def chosen_class_names(
    root: Path, task: str, dataset: str, given: Sequence[str] | None, said_by: str
) -> tuple[str, ...] | None:
    """The names of classes that were given, or those in ``classes.txt`` of a data set; None where there are neither.

    ``said_by`` is what the names that were given come from, for the message.

    Raises:
        InputError: they contradict each other, or are no names of classes.
    """
    known = class_names(root, task, dataset)
    if given is None:
        return known
    check_class_names(given, task, said_by)
    if known is not None and known != tuple(given):
        raise InputError(
            f"{said_by} names the classes {', '.join(given)}, and {root / task / dataset / 'classes.txt'} says "
            f"{', '.join(known)}: leave one out, or make them the same"
        )
    return tuple(given)


def read_labels(path: Path, classes: tuple[str, ...] | None) -> dict[str, int]:
    """Labels from a CSV file of image,label, by the :func:`ht_kernels.data.names.key` of the image's name.

    A label is a whole number from 0 up to :data:`MOST_CLASSES`, and may be written as 1.0.

    Raises:
        InputError: a row is no such pair, a label is not a class, or an image has two labels.
    """
    labels: dict[str, int] = {}
    for number, name, text in read_pairs(path, "label", "a number"):
        written = _LABEL.fullmatch(text)
        label = int(written[1]) if written else MOST_CLASSES
        if label >= (len(classes) if classes is not None else MOST_CLASSES):
            expected = f"a whole number from 0 to {MOST_CLASSES - 1}"
            if classes is not None:
                expected = "one of " + ", ".join(f"{i} ({c})" for i, c in enumerate(classes))
            raise InputError(f"{path}, row {number}: {name} has label {_short(text)}, expected {expected}")
        if labels.setdefault(key(name), label) != label:
            raise InputError(f"{path}, row {number}: {name} has label {label}, and {labels[key(name)]} before")
    if not labels:
        raise InputError(f"{path} has no labels; expected lines of an image's name, a comma and a number")
    return labels


def read_pairs(path: Path, column: str, what: str, without: dict[str, str] | None = None) -> list[tuple[int, str, str]]:
    """The rows of a CSV file of names and values, as (number of the row, name, value) without spaces around them.

    The file has two columns, or a header line that names a column ``column`` and one of ``image`` or ``filename``.
    Empty rows are left out. ``what`` says what the values are, as in "a number". Rows with a name and no value go into
    ``without``, with a clause that says so, if it is given.

    Raises:
        InputError: the file is missing or no table, or a row has an empty cell or another number of cells.
    """
    try:
        table = list(csv.reader(io.StringIO(read_text(path), newline="")))
    except csv.Error as error:
        raise InputError(f"{path} is no CSV file: {reason(error)}") from error
    rows = [(i, [cell.strip() for cell in row]) for i, row in enumerate(table, 1) if any(map(str.strip, row))]
    at, width = (0, 1), 2
    if rows and column in (header := [cell.lower() for cell in rows[0][1]]):
        value = header.index(column)
        names = [header.index(name) for name in ("image", "filename") if name in header]
        at, width = (names[0] if names else int(value == 0), value), len(header)
        rows = rows[1:]
    pairs = []
    for number, row in rows:
        if without is not None and len(row) == width and row[at[0]] and not row[at[1]]:
            without[f"{row[at[0]]}, row {number}"] = f"its {column} is empty"
            continue
        if len(row) != width or not all(row[i] for i in at):
            raise InputError(
                f"{path}, row {number}: {_short(','.join(row))!r} came, expected an image's name and {what} with a "
                "comma between them"
            )
        pairs.append((number, row[at[0]], row[at[1]]))
    return pairs


def read_text(path: Path) -> str:
    """The text of a file in UTF-8.

    Raises:
        InputError: it is missing or cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read as text: {reason(error)}; save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {reason(error)}") from error


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


def read_mask_of(
    path: Path, image: Path, size: tuple[int, int], classes: Sequence[str] = ("background", "lesion")
) -> NDArray[np.uint8]:
    """The mask of an image whose (width, height) is ``size``, as (height, width) uint8: the class of each pixel.

    A mask of two classes has any two values; the values of one of more are the numbers of ``classes``.

    Raises:
        InputError: the mask is missing, damaged, of another size, or its values are no mask; see
            :mod:`ht_kernels.media.mask` and :mod:`ht_kernels.media.class_mask`.
    """
    if not path.is_file():
        raise InputError(f"the mask {path} of {image} is missing")
    mask = read_mask(path) if len(classes) == 2 else read_class_mask(path, classes)
    came, expected = (f"{width}x{height}" for height, width in (mask.shape, size[::-1]))
    if came != expected:
        raise InputError(f"the mask {path} is {came} pixels, but its image {image} is {expected}; expected the same")
    return mask


def to_input(image: Image.Image, size: int) -> Tensor:
    """A gray image as the models take it, (3, size, size) float32 in [0, 1].

    As published: resized by :func:`ht_kernels.media.preprocess.preprocess`, repeated to 3 channels, no mean and
    standard deviation.
    """
    import torch

    from ht_kernels.media.preprocess import preprocess

    pixels = torch.from_numpy(preprocess(np.asarray(image), (size, size))[0])
    return pixels.float().div_(255).expand(3, -1, -1).contiguous()


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}..."
