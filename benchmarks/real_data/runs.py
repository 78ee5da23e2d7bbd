"""The runs of the comparison. A run trains a method on a share of the training split and measures the test split."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ht_kernels.clip import HTCLIP
from ht_kernels.data import SegmentationDataset
from ht_kernels.data.prepare.duplicates import difference_hash, near_duplicates
from ht_kernels.errors import InputError
from ht_kernels.files import write_whole
from ht_kernels.train import Examples, Recipe, Trainer, prepare, read_examples, start_from
from ht_kernels.train.metrics import predict, score, summarize
from ht_kernels.weights import PHANTOM

RATIOS = (100, 20, 5)
"""The shares of the training split in percent, in the order of the runs."""

_CLASSES = ("background", "lesion")


@dataclass(frozen=True)
class Method:
    """A method: what is trained besides the heads, and which adapters the model has.

    Attributes:
        name: the name in files.
        label: the name in tables.
        method: the ``method`` of :class:`ht_kernels.train.Recipe`.
        keep: whether the adapters of the shipped weights are kept.
        options: arguments of HTCLIP for new adapters.
    """

    name: str
    label: str
    method: str
    keep: bool
    options: dict[str, str]


METHODS = (
    Method("heads", "heads only, no adapters", "heads", False, {}),
    Method("lora", "LoRA, no adapters", "lora", False, {}),
    Method("baseline", "baseline", "ht", False, {"variant": "baseline"}),
    Method("freq_enhanced", "freq_enhanced", "ht", False, {"variant": "freq_enhanced"}),
    Method("noise_aware", "noise_aware", "ht", False, {"variant": "noise_aware"}),
    Method("hybrid_gain", "hybrid (gain)", "ht", False, {"variant": "hybrid"}),
    Method("hybrid_spectral", "hybrid (spectral full)", "ht", False, {"variant": "hybrid", "spectral": "full"}),
    Method("shipped_frozen", "shipped adapters frozen, heads", "heads", True, {}),
    Method("shipped_trained", "shipped adapters trained on", "ht", True, {}),
)


@dataclass(frozen=True)
class Setting:
    """The options that are the same for every run.

    Attributes:
        epochs: the number of passes over the whole training split. A run on a share of it makes more passes, so that
            every run sees about the same number of images.
        learning_rate: the learning rate at the start of the cosine schedule.
        batch: the number of images in a step.
    """

    epochs: int
    learning_rate: float
    batch: int


@dataclass(frozen=True)
class Run:
    """A method, a share of the training split in percent, and a seed."""

    method: Method
    ratio: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.ratio}-{self.method.name}-{self.seed}"

    def recipe(self, setting: Setting) -> Recipe:
        """The recipe of the run. Every share of the data gets about the same number of steps and validations."""
        times = 100 // self.ratio
        return Recipe(
            method=self.method.method,
            epochs=setting.epochs * times,
            batch=setting.batch,
            learning_rate=setting.learning_rate,
            validate_every=times,
            patience=setting.epochs,
            ratio=self.ratio,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Data:
    """The splits, and the names of the test images that have a near duplicate in the training split (``seen``)."""

    train: Examples
    val: Examples
    test: Examples
    seen: frozenset[str]


def order(seeds: int) -> Iterator[Run]:
    """Yield all runs: for each share of the data, largest first, and for each seed, all methods."""
    for ratio in RATIOS:
        for seed in range(seeds):
            for method in METHODS:
                yield Run(method, ratio, seed)


@functools.cache
def read(root: Path, dataset: str) -> Data:
    """Read the data set into memory, at the image size of the shipped model."""
    train, val, test = (read_examples(SegmentationDataset(root, dataset, split)) for split in ("train", "val", "test"))
    hashes = [difference_hash(Image.fromarray(np.asarray(image[0]))) for image in [*test.images, *train.images]]
    seen = {test.names[i] for i, j in near_duplicates(hashes) if i < len(test) <= j}
    return Data(train, val, test, frozenset(seen))


def start(method: Method, seed: int) -> HTCLIP:
    """Make the model that a run starts with. Its trainable parameters are not chosen yet."""
    torch.manual_seed(seed)
    classes = {"task": "segmentation", "num_classes": len(_CLASSES), "class_names": _CLASSES}
    return start_from(PHANTOM, method.method, method.keep, **classes, **method.options)


def do(run: Run, setting: Setting, data: Data, output: Path) -> dict[str, Any]:
    """Do a run, or read its result if it was done before, and return its row of results.csv.

    Raises:
        InputError: the earlier result has another setting.
    """
    folder = output / "runs" / run.name
    done = folder / "result.json"
    if done.exists():
        result: dict[str, Any] = json.loads(done.read_text())
        if result["setting"] != asdict(setting):
            raise InputError(f"{done} is of {result['setting']}, not of {setting}: name another folder for the output")
        return result
    model = start(run.method, run.seed)
    prepare(model, run.method.method)
    recipe = run.recipe(setting)
    train = data.train.share(run.ratio, run.seed)
    began = time.process_time()
    trainer = Trainer(model, recipe, train, data.val, folder, say=lambda _: None)
    resumed = trainer.epoch
    outcome = trainer.run()
    spent = time.process_time() - began
    result = {
        "method": run.method.name,
        "ratio": run.ratio,
        "seed": run.seed,
        "train_images": len(train),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "best_epoch": outcome.best_epoch,
        "val_dice": outcome.best,
        **_test(folder / "best.safetensors", data),
        "cpu_seconds_per_pass": spent / max(1, outcome.epochs - resumed) * len(data.train) / len(train),
        "setting": asdict(setting),
    }
    write_whole(done, json.dumps(result, indent=1).encode(), "the result")
    return result


def finished(output: Path, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The rows of the finished runs."""
    files = [output / "runs" / run.name / "result.json" for run in runs]
    return [json.loads(file.read_text()) for file in files if file.exists()]


def _test(checkpoint: Path, data: Data) -> dict[str, float]:
    """Mean Dice and IoU on the test split, and on the test images without a near duplicate in the training split."""
    model = HTCLIP.from_checkpoint(checkpoint)
    indices = range(len(data.test))
    rows = score(data.test, indices, predict(model, data.test, indices, 32, "cpu"), len(_CLASSES), surfaces=False)
    everything, unseen = summarize(rows), summarize([row for row in rows if row["name"] not in data.seen])
    return {
        "dice": everything["dice"],
        "iou": everything["iou"],
        "dice_unseen": unseen["dice"],
        "iou_unseen": unseen["iou"],
        "test_images": len(rows),
        "test_images_unseen": sum(row["name"] not in data.seen for row in rows),
    }
