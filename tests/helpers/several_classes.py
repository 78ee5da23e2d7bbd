"""A small data set whose masks have several classes: dark squares and bright discs in gray noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .layout import save

NAMES = ("background", "cyst", "vessel")
SPLITS = {"train": 24, "val": 10, "test": 8}


def scene(seed: int, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """An image and its mask, (S, S) uint8: a dark square of class 1 in the left half, a bright disc of class 2 in the
    right half."""
    g = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    y, x = g.uniform(0.3, 0.7, 2) * side
    mask = ((abs(rows - y) < side / 7) & (abs(columns - x / 2) < side / 7)).astype(np.uint8)
    mask[np.hypot(rows - x, columns - side / 2 - y / 2) < side / 6] = 2
    image = np.array((110, 20, 230))[mask] + g.normal(0, 12, mask.shape)
    return image.clip(0, 255).astype(np.uint8), mask


def make_several(root: Path, name: str = "LEG", listed: bool = True) -> Path:
    """The published layout of 42 such images, with a ``classes.txt`` if ``listed``."""
    folder = root / "segmentation" / name
    folder.mkdir(parents=True)
    seed = 0
    for split, count in SPLITS.items():
        names = [f"{name}_{seed + i}.png" for i in range(count)]
        for image in names:
            pixels, mask = scene(seed)
            save(root / "all/images" / image, pixels)
            save(root / "all/masks" / image, mask)
            seed += 1
        (folder / f"{split}.txt").write_text("\n".join(names))
    if listed:
        (folder / "classes.txt").write_text("\n".join(NAMES) + "\n")
    return root
