"""Writing the published layout. Text is UTF-8 with the line ends of Linux on every system."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ht_kernels import outputs
from ht_kernels.choices import TASKS
from ht_kernels.errors import InputError
from ht_kernels.files import check_foreign, within

from ..layout import SPLITS, image_path, mask_path
from ..names import visible

_NAME = re.compile(r"[\w-]+")


def write_image(
    root: Path, name: str, image: NDArray[np.uint8], mask: NDArray[np.uint8] | None, classes: int = 2
) -> None:
    """Write an image (H, W) uint8 and, if it has one, its mask (H, W) uint8 of numbers of classes.

    A mask of two classes is written in black and white, and one of more with the numbers of classes as its values.
    """
    _write_picture(image_path(root, name), image)
    if mask is not None:
        _write_picture(mask_path(root, name), mask * np.uint8(255) if classes == 2 else mask)


def write_splits(
    root: Path,
    dataset: str,
    splits: Mapping[str, str],
    labels: Mapping[str, int],
    captions: Mapping[str, str] | None = None,
    header: bool = False,
    masked: Mapping[str, str] | None = None,
) -> None:
    """Write the lists of names, and the labels and captions where there are any.

    They are to be written after the images: a data set is there when its lists are. The tables are as the published
    code reads them: ``labels.csv`` without a header line, captions by the columns ``filename`` and ``Caption``.

    Args:
        root: the folder with ``all``.
        dataset: its name.
        splits: split by name.
        labels: label by name; empty for none.
        captions: caption by name.
        header: begin ``labels.csv`` with the line ``image,label``.
        masked: split by name of the images that have masks; by default all.
    """
    masked = splits if masked is None else masked
    if masked:
        _write_lists(root / "segmentation" / dataset, masked)
    if labels:
        folder = root / "classification" / dataset
        _write_lists(folder, {name: split for name, split in splits.items() if name in labels})
        _write_table(folder / "labels.csv", labels.items(), ("image", "label") if header else None)
    if captions:
        write_captions(root, dataset, splits, {name: (caption,) for name, caption in captions.items()})


def write_captions(root: Path, dataset: str, splits: Mapping[str, str], captions: Mapping[str, Iterable[str]]) -> None:
    """Write the lists of names, and the table of captions with a row for each.

    Args:
        root: the folder with ``all``.
        dataset: its name.
        splits: split by name.
        captions: captions by name.
    """
    folder = root / "contrastive" / dataset
    _write_lists(folder, splits)
    rows = [(name, caption) for name, found in captions.items() for caption in found]
    _write_table(folder / "captions.csv", rows, ("filename", "Caption"))


def write_classes(folder: Path, names: Sequence[str]) -> None:
    """Write ``classes.txt`` beside the lists: a name a line, whose number from 0 is the class."""
    _write(folder / "classes.txt", "".join(f"{name}\n" for name in names))


def write_groups(folder: Path, groups: Mapping[str, str]) -> None:
    """Write ``groups.csv`` beside the lists: ``image,group``; folds keep the images of a group together."""
    _write_table(folder / "groups.csv", groups.items(), ("image", "group"))


def written_before(output: Path, dataset: str) -> list[str | Path]:
    """What an earlier preparation of a data set wrote: its tables, and the images and masks in its checksums.

    Where there are no checksums, no preparation wrote the tables.
    """
    images = [place for place in listed(output / f"{dataset}.sha256") if place.parts[0] == "all"]
    return [*outputs.dataset(dataset), *images] if images else []


def listed(checksums: Path) -> list[Path]:
    """The files in a file of checksums, by their paths beside it; none where there is no such file."""
    lines = checksums.read_bytes().splitlines() if checksums.is_file() else []
    return within([os.fsdecode(line.partition(b"  ")[2]) for line in lines])


def check_data_set(output: Path, dataset: str, names: Iterable[str]) -> None:
    """Refuse an output with tables of a data set, or images or masks of these names, that no preparation of it wrote.

    Raises:
        InputError: it has such a file.
    """
    images = [place(Path(), name) for name in names for place in (image_path, mask_path)]
    check_foreign(output, [*outputs.dataset(dataset), *images], written_before(output, dataset))


def check_name(name: str) -> None:
    """Raise InputError if a data set cannot have this name in the layout."""
    if not _NAME.fullmatch(name):
        raise InputError(f"the name {name!r} of the data set came, expected letters, digits, - and _, such as MedPix")


def write_checksums(root: Path, dataset: str, names: Sequence[str], masked: Container[str] | None = None) -> Path:
    """Write the SHA256 of every file of a data set, as ``sha256sum --check`` reads them; returns the file written.

    ``masked`` holds the names of the images that have masks; by default all have.
    """
    files: list[Path] = []
    for name in names:
        files += [image_path(root, name), *([mask_path(root, name)] if masked is None or name in masked else [])]
    files += [path for task in TASKS if (root / task / dataset).is_dir() for path in visible(root / task / dataset)]
    return list_checksums(root, root / f"{dataset}.sha256", files)


def list_checksums(root: Path, target: Path, files: Iterable[Path]) -> Path:
    """Write the SHA256 of files below a folder into the file ``target``, which is returned."""
    files = list(files)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest().encode() for path in files]
    places = [os.fsencode(path.relative_to(root).as_posix()) for path in files]
    target.write_bytes(b"".join(b"%b  %b\n" % pair for pair in zip(digests, places, strict=True)))
    return target


def _write_lists(folder: Path, splits: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        _write(folder / f"{split}.txt", "".join(f"{name}\n" for name, where in splits.items() if where == split))


def _write_picture(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _write_table(path: Path, rows: Iterable[tuple[str, object]], header: tuple[str, str] | None) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([*([header] if header else []), *rows])
    _write(path, text.getvalue())


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
