"""The time of a pass over the training split, for the published model and ours, from steps that are timed in turn."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from ht_kernels.environment import commit, describe
from ht_kernels.files import make_folder, write_whole
from ht_kernels.train.methods import prepare

from .. import training
from .data import Data
from .methods import BATCH, METHODS, UNET, Setting
from .runs import start

FILE = "times.json"

Times = dict[str, dict[str, float]]


def measure(data: Data, setting: Setting, tower: str | None, seconds: float, output: Path) -> Times:
    """Measure the seconds of a pass for each method, under ``published`` and ``ours``.

    A method with a spectral filter has no published counterpart, and a UNet is not timed. Augmentation is not included,
    because it is the same for both.
    """
    images = (data.train.images[:BATCH].float() / 255).expand(-1, 3, -1, -1).contiguous()
    batch = images, data.train.targets[:BATCH].long()
    steps = len(data.train) / BATCH
    times: Times = {}
    for method in (method for method in METHODS if method.method != UNET):
        model = start(method, 0, setting, tower)
        prepare(model, method.method)
        models: dict[str, nn.Module] = {"ours": model.train()}
        if model.config.spectral is None:
            models = training.pair(model, torch.device("cpu"))
        found = training.speed(models, batch, seconds, torch.device("cpu"), setting.task)
        times[method.name] = {kind: steps * step for kind, step in found.items()}
    make_folder(output)
    document = {"commit": commit(), "seconds_of_a_pass": times, "environment": describe()}
    write_whole(output / FILE, json.dumps(document, indent=1).encode(), "the times")
    return times


def read(output: Path) -> Times:
    """Read the times that were measured before; the result is empty if there are none."""
    path = output / FILE
    times: Times = json.loads(path.read_text())["seconds_of_a_pass"] if path.exists() else {}
    return times
