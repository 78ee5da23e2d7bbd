"""All that the study reads, small enough to carry to another machine.

``python -m benchmarks.real_data.pack DATA --tower FILE --output DIR`` writes the images of a data set as the models
take them, gray and 224 pixels wide, with masks, labels and splits, in the published layout, and the tower's weights in
half precision. The study takes such a folder in place of DATA, and finds the tower in it.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import save_file

from ht_kernels.clip.weight_file import read_weights
from ht_kernels.data.layout import image_path, mask_path
from ht_kernels.errors import InputError
from ht_kernels.files import output_folder
from ht_kernels.train import read_examples

from .. import figures
from .data import TASKS

TOWER = "tower.safetensors"


def main(argv: list[str] | None = None) -> int:
    """Write a pack. Return exit status 0, or 2 for bad input."""
    parser = figures.options_on_data("real_data.pack", __doc__, "for the pack")
    parser.add_argument("--tower", required=True, metavar="FILE", help="the tower's weights")
    args = parser.parse_args(argv)
    try:
        with output_folder(args.output) as folder:
            pack(args.data, args.dataset, args.tower, args.image_size, folder)
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{args.output}: {size / 2**20:.1f} MiB")
    return 0


def pack(root: Path, dataset: str, tower: str, image_size: int, folder: Path) -> None:
    """Write a data set and a tower into a folder.

    Raises:
        InputError: a file is missing or damaged; the message names it.
    """
    for task, kind in TASKS.items():
        for split in ("train", "val", "test"):
            examples = read_examples(kind(root, dataset, split, image_size))
            for name, image, target in zip(examples.names, examples.images, examples.targets, strict=True):
                _save(image_path(folder, name), image[0].numpy())
                if task == "segmentation":
                    _save(mask_path(folder, name), target.numpy() * np.uint8(255))
        shutil.copytree(root / task / dataset, folder / task / dataset)
    weights = read_weights(tower)
    halves = {name: t.half() if t.is_floating_point() else t for name, t in weights.items()}
    save_file({name: tensor.contiguous() for name, tensor in halves.items()}, folder / TOWER)


def tower_of(root: Path) -> str | None:
    """The path of the tower's weights in a pack; None if the folder has none."""
    path = root / TOWER
    return str(path) if path.is_file() else None


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG", optimize=True)


if __name__ == "__main__":
    sys.exit(main())
