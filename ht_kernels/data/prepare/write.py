"""Writing the published layout. Text is UTF-8 with the line ends of Linux on every system."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ht_kernels.choices import TASKS
from ht_kernels.errors import InputError

from ..layout import SPLITS, image_path, mask_path
from ..names import visible


def write_image(root: Path, name: str, image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> None:
    """Write an image (H, W) uint8, and its mask (H, W) uint8, 0 or 1, in black and white."""
    for path, pixels in ((image_path(root, name), image), (mask_path(root, name), mask * np.uint8(255))):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def write_splits(
    root: Path,
    dataset: str,
    splits: Mapping[str, str],
    labels: Mapping[str, int],
    captions: Mapping[str, str] | None = None,
    header: bool = False,
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
    """
    _write_lists(root / "segmentation" / dataset, splits)
    if labels:
        folder = root / "classification" / dataset
        _write_lists(folder, splits)
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


def check_output(output: Path) -> None:
    """Raise InputError if an output is there and is no folder that can be written."""
    if output.exists() and not (output.is_dir() and os.access(output, os.W_OK)):
        raise InputError(f"the output {output} is not a folder that can be written")


def write_checksums(root: Path, dataset: str, names: Sequence[str], masks: bool = True) -> Path:
    """Write the SHA256 of every file of a data set, as ``sha256sum --check`` reads them; returns the file written.

    Without ``masks`` the images have none.
    """
    files = [path(root, name) for name in names for path in ((image_path, mask_path) if masks else (image_path,))]
    files += [path for task in TASKS if (root / task / dataset).is_dir() for path in visible(root / task / dataset)]
    target = root / f"{dataset}.sha256"
    digests = [hashlib.sha256(path.read_bytes()).hexdigest().encode() for path in files]
    places = [os.fsencode(path.relative_to(root).as_posix()) for path in files]
    target.write_bytes(b"".join(b"%b  %b\n" % pair for pair in zip(digests, places, strict=True)))
    return target


def _write_lists(folder: Path, splits: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        _write(folder / f"{split}.txt", "".join(f"{name}\n" for name, where in splits.items() if where == split))


def _write_table(path: Path, rows: Iterable[tuple[str, object]], header: tuple[str, str] | None) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([*([header] if header else []), *rows])
    _write(path, text.getvalue())


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
