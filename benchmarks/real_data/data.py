"""The splits of the study: in memory, at the model's image size, and without near duplicates between them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ht_kernels.data import ClassificationDataset, SegmentationDataset
from ht_kernels.data.prepare.duplicates import difference_hash, near_duplicates
from ht_kernels.train import Examples, read_examples

TASKS = {"segmentation": SegmentationDataset, "classification": ClassificationDataset}


@dataclass(frozen=True)
class Data:
    """The splits.

    Attributes:
        train, val, test: the examples. No two of different splits are near duplicates of each other.
        removed: how many were removed for that, by split.
    """

    train: Examples
    val: Examples
    test: Examples
    removed: dict[str, int]


@functools.cache
def read(root: Path, dataset: str, task: str, image_size: int) -> Data:
    """Read a data set in the published layout.

    The test split stays whole. An image of the validation split that is a near duplicate of a test image is removed,
    and so is an image of the training split that is one of a test or validation image.
    """
    train, val, test = (read_examples(TASKS[task](root, dataset, s, image_size)) for s in ("train", "val", "test"))
    fewer_val = without_twins(val, [test])
    fewer_train = without_twins(train, [test, fewer_val])
    removed = {"train": len(train) - len(fewer_train), "val": len(val) - len(fewer_val)}
    return Data(fewer_train, fewer_val, test, removed)


def without_twins(examples: Examples, others: Sequence[Examples]) -> Examples:
    """The examples that have no near duplicate among the others."""
    together = [each for part in (examples, *others) for each in hashes(part)]
    twins = {i for i, j in near_duplicates(together) if i < len(examples) <= j}
    kept = [i for i in range(len(examples)) if i not in twins]
    names = tuple(examples.names[i] for i in kept)
    return replace(examples, images=examples.images[kept], targets=examples.targets[kept], names=names)


def hashes(examples: Examples) -> list[NDArray[np.bool_]]:
    """The difference hash of each image, for :func:`ht_kernels.data.prepare.duplicates.near_duplicates`."""
    return [difference_hash(Image.fromarray(np.asarray(image[0]))) for image in examples.images]
