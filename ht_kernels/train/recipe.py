"""The recipes of training: hyper-parameters, under a name or with the published values as defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ht_kernels.errors import InputError
from ht_kernels.nn.adapter import STARTS

BASELINES = {"unet": "segmentation", "resnet": "classification"}
"""The methods that train a network without a tower, :class:`ht_kernels.train.Baseline`, and the task of each."""

METHODS = ("ht", "heads", "lora", "full", "all", *BASELINES)
"""The training methods. All but :data:`BASELINES` have a tower and train the heads. In addition, ``ht`` trains the
adapters, ``heads`` nothing, ``lora`` low-rank updates of the attention, ``full`` the tower, and ``all`` adapters and
tower."""

AUGMENTATIONS = ("published", "weak", "gray", "ultrasound", "none")
RATIOS = (1, 2, 5, 10, 20, 50, 100)
"""The shares of the training split, in percent, that can be used: the published few-shot shares and 100."""


@dataclass(frozen=True)
class Recipe:
    """The hyper-parameters of a training run. The defaults are the published values.

    Attributes:
        method: one of :data:`METHODS`.
        epochs: the number of passes over the training split.
        batch: the number of images in an optimizer step, over all processes.
        accumulate: the number of parts into which each process splits its share of a batch. The parts are computed one
            after the other, which saves memory.
        start: how new adapters start: ``published`` or ``identity``, as for :class:`ht_kernels.HTAdapter`.
        learning_rate: AdamW's learning rate at the start of the cosine schedule.
        adapter_learning_rate: the same for all that is trained inside the tower (adapters, low-rank updates, the tower
            itself); None for ``learning_rate``, which is then for the heads and for these.
        final_learning_rate: AdamW's learning rate at the end of the cosine schedule.
        warmup: the number of epochs before the cosine schedule, in which the learning rate rises to ``learning_rate``.
        weight_decay: AdamW's weight decay.
        betas: AdamW's betas.
        clip: the largest norm of the gradient; longer gradients are shortened to it. None for no limit.
        average: the decay of a moving average of the weights, such as 0.99. The averaged weights are validated and
            saved, and training goes on with the others. None for no average.
        validate_every: the number of epochs between validations. The last epoch is always validated.
        patience: training stops after this many validations in a row without a new best score.
        augment: one of :data:`AUGMENTATIONS`.
        ratio: the share of the training split to use, in percent; one of :data:`RATIOS`.
        seed: the seed of the initial heads and adapters, the few-shot subset, the order, augmentation and dropout.
        precision: mixed precision: ``no``, ``bf16`` or ``fp16``.

    Raises:
        InputError: a value is unknown or out of range.
    """

    method: str = "ht"
    epochs: int = 200
    batch: int = 32
    accumulate: int = 1
    start: str = "published"
    learning_rate: float = 1e-4
    adapter_learning_rate: float | None = None
    final_learning_rate: float = 1e-8
    warmup: int = 0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float | None = None
    average: float | None = None
    validate_every: int = 10
    patience: int = 15
    augment: str = "published"
    ratio: int = 100
    seed: int = 1
    precision: str = "no"

    def __post_init__(self) -> None:
        for name, known in (
            ("method", METHODS),
            ("start", STARTS),
            ("augment", AUGMENTATIONS),
            ("ratio", RATIOS),
            ("precision", ("no", "bf16", "fp16")),
        ):
            value = getattr(self, name)
            if value not in known:
                raise InputError(f"{name} {value!r} is unknown; expected one of {', '.join(map(str, known))}")
        for name in ("epochs", "batch", "accumulate", "validate_every", "patience"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected 1 or more")
        for name in ("adapter_learning_rate", "clip"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} is {value}, expected a number above 0")
        if self.average is not None and not 0 < self.average < 1:
            raise InputError(f"average is {self.average}, expected a decay between 0 and 1, such as 0.99")
        if not self.learning_rate > 0 or not 0 <= self.warmup < self.epochs:
            raise InputError(
                f"learning_rate is {self.learning_rate} and warmup {self.warmup} of {self.epochs} epochs; expected a "
                "positive rate, and a warm-up shorter than the training"
            )

    def rate_at(self, step: int, images: int, peak: float) -> float:
        """The learning rate of a step, counted from 0: a linear warm-up to ``peak``, then a cosine to the final rate.

        ``images`` is the number of images that an epoch trains on.
        """
        per_epoch = math.ceil(images / self.batch)
        warmup, steps = self.warmup * per_epoch, self.epochs * per_epoch
        if step < warmup:
            return peak * (step + 1) / warmup
        cosine = (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
        return self.final_learning_rate + (peak - self.final_learning_rate) * cosine


RECIPES = {
    "published": Recipe(),
    "steady": Recipe(
        epochs=30,
        batch=8,
        start="identity",
        learning_rate=1e-3,
        warmup=2,
        clip=1.0,
        average=0.99,
        validate_every=1,
        patience=30,
        augment="ultrasound",
    ),
}
"""Recipes by name. ``published`` has the published values; ``steady`` starts as heads alone and warms up."""
