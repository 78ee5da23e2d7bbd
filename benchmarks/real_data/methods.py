"""What is compared, and by which recipe each method is trained."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ht_kernels.train import Recipe

BATCH = 8
"""The number of images of a step."""

UNET = "unet"
"""The :attr:`Method.method` of the network that has no pretrained tower."""

PASSES = {100: 1.0, 20: 3.0, 5: 6.0}
"""The shares of the training split, in percent, and for each how many times as many passes it gets as all images do.

A smaller share gets more passes, because each has fewer steps, and still sees fewer images altogether.
"""

VALIDATIONS = 14
"""A run is validated at most so many times, at equal distances."""


@dataclass(frozen=True)
class Method:
    """A method: what is trained besides the heads, and which adapters the model has.

    Attributes:
        name: the name in files.
        label: the name in tables.
        method: the ``method`` of :class:`ht_kernels.train.Recipe`.
        adapters: arguments of HTCLIP for its adapters.
        recipe: what differs from the recipe of all methods.
        passes: how many times as many passes it gets as the others.
        seeds: how many seeds it has by default.
    """

    name: str
    label: str
    method: str
    adapters: dict[str, str] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    passes: int = 1
    seeds: int = 1


METHODS = (
    Method("heads", "heads alone", "heads", seeds=3),
    Method("hybrid_gain", "HT, hybrid (gain)", "ht", {"variant": "hybrid"}, seeds=3),
    Method("hybrid_spectral", "HT, hybrid (spectral)", "ht", {"variant": "hybrid", "spectral": "full"}, seeds=3),
    # 1e-3 is too high for LoRA: its loss rises again. Validation prefers 3e-4 to 1e-4.
    Method("lora", "LoRA", "lora", recipe={"adapter_learning_rate": 3e-4}, seeds=3),
    Method("baseline", "HT, baseline", "ht", {"variant": "baseline"}, seeds=3),
    Method("freq_enhanced", "HT, freq_enhanced", "ht", {"variant": "freq_enhanced"}),
    Method("noise_aware", "HT, noise_aware", "ht", {"variant": "noise_aware"}, seeds=3),
    # 1e-3 destroys the pretrained tower, so its weights have a rate of their own.
    Method("full", "full tuning", "full", recipe={"adapter_learning_rate": 2e-5}),
    # It starts from nothing, so the passes that suffice for a pretrained tower do not suffice for it.
    Method("unet", "UNet from scratch", UNET, passes=4),
)
"""In the order of the runs."""


@dataclass(frozen=True)
class Setting:
    """The options that are the same for every run, and say which results belong together.

    Attributes:
        task: ``segmentation`` or ``classification``.
        backbone: the name of the tower.
        image_size: the side of the images.
        epochs: the number of passes over the whole training split.
        precision: of training, as in :class:`ht_kernels.train.Recipe`.
    """

    task: str
    backbone: str
    image_size: int
    epochs: int
    precision: str


@dataclass(frozen=True)
class Run:
    """A method, a share of the training split in percent, and a seed."""

    method: Method
    share: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.share}-{self.method.name}-{self.seed}"

    def recipe(self, setting: Setting) -> Recipe:
        """The recipe of the run: ``ours`` with light augmentation, validated as often for every share."""
        times = PASSES[self.share] * self.method.passes
        epochs = round(setting.epochs * times)
        options: dict[str, Any] = {
            "method": self.method.method,
            "epochs": epochs,
            "batch": BATCH,
            "drop_last": False,
            "start": "identity",
            "learning_rate": 1e-3,
            "warmup": round(min(2, setting.epochs // 2) * times),
            "clip": 1.0,
            "average": 0.99,
            "augment": "light",
            "validate_every": math.ceil(epochs / VALIDATIONS),
            "validate_offset": 0,
            "patience": VALIDATIONS,
            "ratio": self.share,
            "seed": self.seed,
            "precision": setting.precision,
        }
        return Recipe(**options | self.method.recipe)


def order(task: str, seeds: int | None = None) -> Iterator[Run]:
    """Yield all runs of a task: share by share, the largest first.

    In a share, the methods with several seeds come first, seed by seed, and then the others.

    Args:
        task: ``segmentation`` or ``classification``, which a UNet cannot do.
        seeds: the number of seeds of every method; with None each method has its own number.
    """
    able = [method for method in METHODS if task == "segmentation" or method.method != UNET]
    main, others = ([method for method in able if (method.seeds > 1) == several] for several in (True, False))
    for share in PASSES:
        for group in (main, others):
            for seed in range(max((seeds or method.seeds for method in group), default=0)):
                yield from (Run(method, share, seed) for method in group)
