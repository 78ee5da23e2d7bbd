"""What the choices of the recipe ``ours`` bring: augmentation, averaged weights and the number of passes.

``python -m benchmarks.recipe_choices DATA --tower FILE --output DIR`` trains a segmentation model by the recipe and by
recipes that differ from it in one thing, with one seed. FILE holds the weights of DINOv2 ViT-S/14. Each model is
measured on the test split, and on the same images changed: further than the recipe's augmentation changes images, and
by JPEG, which it does not do. They stand in for images of other scanners. Finished trainings are not repeated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ht_kernels.clip import HTCLIP
from ht_kernels.errors import InputError
from ht_kernels.train import Recipe, Trainer, build, prepare
from ht_kernels.train.recipe import OURS

from . import figures
from .changes import AS_IT_IS, CHANGES, dice_by_change
from .real_data import data
from .real_data.statistics import Array, interval
from .starts import BACKBONE

CHOICES: dict[str, Callable[[Recipe], Recipe]] = {
    "the recipe": lambda recipe: recipe,
    "flips and crops alone": lambda recipe: replace(recipe, augment="light"),
    "no augmentation": lambda recipe: replace(recipe, augment="none"),
    "no averaged weights": lambda recipe: replace(recipe, average=None),
    "twice the passes": lambda recipe: replace(recipe, epochs=2 * recipe.epochs, patience=2 * recipe.epochs),
}
"""By name, the recipe that a choice makes of the recipe ``ours``."""


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark. Return exit status 0, or 2 for bad input."""
    parser = figures.options_on_data("recipe_choices", __doc__, "for runs and figures")
    parser.add_argument("--tower", metavar="FILE", required=True, help=f"weights of {BACKBONE}")
    parser.add_argument("--epochs", type=int, default=OURS.epochs, help="passes of the recipe (default: %(default)s)")
    parser.add_argument("--precision", default="no", help="mixed precision: no, bf16 or fp16")
    args = parser.parse_args(argv)
    try:
        splits = data.read(args.data, args.dataset, "segmentation", args.image_size)
        rows = []
        for choice in CHOICES:
            rows.append({"choice": choice, **follow(args, choice, splits)})
            print(f"{choice}: {rows[-1]['dice'][AS_IT_IS]:.3f} on the test split", flush=True)
        facts = {"epochs": args.epochs, "precision": args.precision}
        figures.write(args.output / "recipe_choices.json", rows, table(rows), **facts)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def follow(args: argparse.Namespace, choice: str, splits: data.Data) -> dict[str, Any]:
    """Train by a choice, or go on with it, and measure the weights of the best epoch.

    The result has the ``passes``, the best Dice on the validation split, and by change the mean Dice of the test split
    and the Dice of each image, None where there is no lesion.
    """
    start = {"image_size": args.image_size, "feature_layers": (2, 5, 8), "reduce_dim": 256, "start": "identity"}
    recipe = CHOICES[choice](replace(OURS, epochs=args.epochs, patience=args.epochs, precision=args.precision))
    torch.manual_seed(recipe.seed)
    model = build(recipe.method, backbone=BACKBONE, pretrained=args.tower, task="segmentation", num_classes=2, **start)
    prepare(model, recipe.method)
    folder = args.output / f"{choice.replace(' ', '-')}-{recipe.epochs}"
    outcome = Trainer(model, recipe, splits.train, splits.val, folder, say=lambda _: None).run()
    best = HTCLIP.from_checkpoint(folder / "best.safetensors")
    images = dice_by_change(best, splits.test)
    means = {name: float(np.nanmean(np.array(each, dtype=float))) for name, each in images.items()}
    return {"passes": recipe.epochs, "validation": outcome.best, "dice": means, "images": images}


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of a Markdown table: Dice by choice and change, and how far a choice is from the recipe.

    The difference is of the mean over all changes, with the 95 % interval of the bootstrap over test images.
    """
    lines = [
        f"| | passes | validation | test, {' | '.join(CHANGES)} | all, minus the recipe's | 95 % interval |",
        f"|---|{'--:|' * (len(CHANGES) + 4)}",
    ]
    recipe = _by_image(rows[0])
    for row in rows:
        cells = [f"{row['validation']:.3f}", *(f"{row['dice'][change]:.3f}" for change in CHANGES)]
        if row is rows[0]:
            cells += ["-", "-"]
        else:
            differences = _by_image(row) - recipe
            differences = differences[~np.isnan(differences)]
            low, high = interval(len(differences), lambda drawn, of=differences: of[drawn].mean(-1))
            cells += [f"{differences.mean():+.3f}", f"{low:+.3f} to {high:+.3f}"]
        lines.append(f"| {row['choice']} | {row['passes']} | {' | '.join(cells)} |")
    return lines


def _by_image(row: dict[str, Any]) -> Array:
    """The mean Dice of each test image over all changes, nan where it has no lesion in one of them."""
    return np.array([row["images"][change] for change in CHANGES], dtype=float).mean(0)


if __name__ == "__main__":
    sys.exit(main())
