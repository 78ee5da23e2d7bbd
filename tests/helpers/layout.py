"""Small folders of ultrasound data, made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SPLITS = {"train": 5, "val": 2, "test": 3}


def picture(seed: int, size: tuple[int, int] = (40, 52)) -> np.ndarray:
    """Gray (H, W) uint8: smooth, unlike that of any other seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def disc(seed: int, size: tuple[int, int] = (40, 52)) -> np.ndarray:
    """A mask (H, W) uint8, 0 or 1."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    y, x = np.random.default_rng(seed).uniform(0.3, 0.7, 2) * size
    return (np.hypot(rows - y, columns - x) < min(size) / 5).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def make_layout(root: Path, name: str = "BUSI") -> Path:
    """Ten images 40x52 with masks and labels 0 and 1, in the published layout."""
    names = [f"{name}_{i}.png" for i in range(sum(SPLITS.values()))]
    for i, image in enumerate(names):
        save(root / "all/images" / image, picture(i))
        save(root / "all/masks" / image, disc(i) * np.uint8(255))
    for task in ("segmentation", "classification"):
        folder = root / task / name
        folder.mkdir(parents=True)
        rest = iter(names)
        for split, count in SPLITS.items():
            (folder / f"{split}.txt").write_text("\n".join(next(rest) for _ in range(count)))
    rows = "".join(f"{image},{i % 2}\n" for i, image in enumerate(names))
    (root / "classification" / name / "labels.csv").write_text(rows)
    return root
