"""Writing the published layout."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..layout import SPLITS, TASKS, image_path, mask_path


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
) -> None:
    """Write the lists of names, and the labels and captions where there are any.

    They are to be written after the images: a data set is there when its lists are.

    Args:
        root: the folder with ``all``.
        dataset: its name.
        splits: split by name.
        labels: label by name; empty for none.
        captions: caption by name.
    """
    columns = {
        "segmentation": ("", {}),
        "classification": ("label", labels),
        "contrastive": ("caption", captions or {}),
    }
    for task, (column, values) in columns.items():
        if column and not values:
            continue
        folder = root / task / dataset
        folder.mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            names = [name for name, where in splits.items() if where == split]
            (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        if column:
            rows = "".join(f"{name},{values[name]}\n" for name in splits)
            (folder / f"{column}s.csv").write_text(f"image,{column}\n{rows}", encoding="utf-8")


def write_checksums(root: Path, dataset: str, names: Sequence[str]) -> Path:
    """Write the SHA256 of every file of a data set, as ``sha256sum --check`` reads them; returns the file written."""
    files = [path(root, name) for name in names for path in (image_path, mask_path)]
    files += [path for task in TASKS for path in sorted((root / task / dataset).glob("*"))]
    target = root / f"{dataset}.sha256"
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(root).as_posix()}\n" for path in files
    ]
    target.write_text("".join(lines), encoding="utf-8")
    return target
