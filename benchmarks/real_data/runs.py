"""A run of the study: trains a method on a share of the training split, and measures every test image."""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ht_kernels.clip import HTCLIP
from ht_kernels.environment import commit, describe
from ht_kernels.errors import InputError
from ht_kernels.files import write_whole
from ht_kernels.train import Baseline, Trainer, build, new_baseline, prepare
from ht_kernels.train.fingerprint import hash_examples
from ht_kernels.train.metrics import predict, score

from .data import Data
from .methods import UNET, Method, Run, Setting

CLASSES = {"segmentation": ("background", "lesion"), "classification": ("benign", "malignant")}


def start(method: Method, seed: int, setting: Setting, tower: str | None) -> HTCLIP:
    """Make the model that a run starts with. Its trainable parameters are not chosen yet.

    ``tower`` is the path of the tower's weights; None for random ones.
    """
    torch.manual_seed(seed)
    names = CLASSES[setting.task]
    return build(
        method.method,
        backbone=setting.backbone,
        pretrained=tower,
        image_size=setting.image_size,
        task=setting.task,
        num_classes=len(names),
        class_names=names,
        start="identity",
        **method.adapters,
    )


def do(run: Run, setting: Setting, data: Data, tower: str | None, output: Path) -> dict[str, Any]:
    """Do a run, or read its result if it was done before.

    The result has what was trained and how long it took, the learning ``curve`` (a row per epoch), and a row for each
    test ``image`` as :func:`ht_kernels.train.metrics.score` gives it, computed with the weights of the best epoch. Only
    those of hybrid adapters are kept.

    Raises:
        InputError: there is no file with the tower's weights, or the earlier result has another setting or what
            the method changes in the recipe was something else, or it is of other images or another tower.
    """
    folder = output / "runs" / run.name
    done = folder / "result.json"
    of = asdict(setting) | made_of(data, tower) | {"recipe": run.method.recipe}
    if done.exists():
        earlier: dict[str, Any] = json.loads(done.read_text())
        then = earlier["setting"] | earlier["made_of"] | {"recipe": earlier.get("recipe")}
        differs = [f"{name} was {then[name]} and is {value} now" for name, value in of.items() if then[name] != value]
        if differs:
            raise InputError(f"{done} cannot be used: {'; '.join(differs)}; name another folder for the output")
        return earlier
    model: Any
    if run.method.method == UNET:
        torch.manual_seed(run.seed)
        model = new_baseline(UNET, setting.task, image_size=setting.image_size)
    else:
        model = start(run.method, run.seed, setting, tower)
        prepare(model, run.method.method)
    train = data.train.share(run.share, run.seed)
    recipe = run.recipe(setting)
    trainer = Trainer(model, recipe, train, data.val, folder, say=lambda _: None)
    resumed, began, worked = trainer.epoch, time.perf_counter(), time.process_time()
    outcome = trainer.run()
    best = folder / "best.safetensors"
    load: Any = Baseline.load if run.method.method == UNET else HTCLIP.from_checkpoint
    epochs = (outcome.epochs - resumed) or math.nan  # a run that was stopped behind its last epoch ran none
    result = {
        "method": run.method.name,
        "share": run.share,
        "seed": run.seed,
        "setting": asdict(setting),
        "made_of": made_of(data, tower),
        "recipe": run.method.recipe,
        "train_images": len(train),
        "val_images": len(data.val),
        "removed": data.removed,
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "best_epoch": outcome.best_epoch,
        "val_score": outcome.best,
        "seconds_per_epoch": plain((time.perf_counter() - began) / epochs),
        "cpu_seconds_per_epoch": plain((time.process_time() - worked) / epochs),
        "curve": _curve(folder / "log.csv"),
        "images": measure(load(best), data),
        "commit": commit(),
        "environment": describe(),
    }
    write_whole(done, json.dumps(result, indent=1).encode(), "the result")
    (folder / "last.pt").unlink()
    if run.method.adapters.get("variant") != "hybrid":
        best.unlink()  # the weights of heads and rivals are not used again
    return result


def made_of(data: Data, tower: str | None) -> dict[str, str | None]:
    """Hashes of the images of all splits, and of the file with the tower's weights; None for random weights.

    Raises:
        InputError: there is no such file.
    """
    images = hashlib.sha256("".join(hash_examples(split) for split in (data.train, data.val, data.test)).encode())
    return {"images": images.hexdigest(), "tower": None if tower is None else _hash_file(tower)}


@functools.cache
def _hash_file(path: str) -> str:
    if not Path(path).is_file():
        raise InputError(f"there is no file {path} with the tower's weights")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def measure(model: Any, data: Data) -> list[dict[str, Any]]:
    """A row for each test image."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    indices = range(len(data.test))
    predictions = predict(model.to(device), data.test, indices, 16, device)
    rows = score(data.test, indices, predictions, model.config.num_classes)
    return [{name: plain(value) for name, value in row.items()} for row in rows]


def plain(value: Any) -> Any:
    """The value, or None for nan, which JSON has no word for."""
    return None if isinstance(value, float) and math.isnan(value) else value


def finished(output: Path, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The results of the finished runs."""
    files = [output / "runs" / run.name / "result.json" for run in runs]
    return [json.loads(file.read_text()) for file in files if file.exists()]


def _curve(log: Path) -> list[dict[str, float]]:
    """The numbers of a training's log, without the cells that are empty."""
    with log.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{name: float(value) for name, value in row.items() if value and name != "remarks"} for row in rows]
