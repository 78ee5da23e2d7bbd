"""A small model, a small data set and a short training of one on the other."""

from __future__ import annotations

from pathlib import Path

import torch

import ht_kernels as ht
from ht_kernels.data import ClassificationDataset, SegmentationDataset
from ht_kernels.train import Examples, Recipe, Trainer, prepare, read_examples
from ht_kernels.train.methods import uses_adapters

from .small_towers import IMAGE, small_tower

SHORT = {"epochs": 2, "batch": 4, "drop_last": False, "validate_every": 1, "validate_offset": 0}
"""Options of a short training that uses every image and validates after every epoch."""


def build(method: str, task: str = "segmentation") -> ht.HTCLIP:
    tower = small_tower("timm").float()
    torch.manual_seed(3)
    layers = None if uses_adapters(method) else ()
    model = ht.HTCLIP(tower, task=task, reduce_dim=16, feature_layers=(1, 2), bottleneck=8, adapter_layers=layers)
    prepare(model, method)
    return model


def examples(root: Path, split: str, task: str = "segmentation") -> Examples:
    kind = SegmentationDataset if task == "segmentation" else ClassificationDataset
    return read_examples(kind(root, "BUSI", split, IMAGE))


def train(root: Path, output: Path, method: str = "ht", task: str = "segmentation", **options: object) -> ht.HTCLIP:
    model = build(method, task)
    recipe = Recipe(method=method, **SHORT | options)  # type: ignore[arg-type]
    data = (examples(root, split, task) for split in ("train", "val"))
    Trainer(model, recipe, *data, output, say=lambda _: None).run()
    return model
