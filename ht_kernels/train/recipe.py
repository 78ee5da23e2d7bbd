"""The recipes of training: hyper-parameters, under a name or with the published values as defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ht_kernels.arguments import is_real, need_whole
from ht_kernels.choices import STARTS
from ht_kernels.errors import InputError

LAST = {"last3": 3, "last6": 6, "last9": 9}
"""The methods that train the last blocks of the tower, and how many blocks each one trains."""

BASELINES = {"unet": "segmentation", "resnet": "classification"}
"""The methods that train a network without a tower, :class:`ht_kernels.train.Baseline`, and the task of each."""

METHODS = ("ht", "heads", "lora", "full", *LAST, "all", *BASELINES)
"""The training methods. All but :data:`BASELINES` have a tower and train the heads. In addition, ``ht`` trains the
adapters, ``heads`` nothing, ``lora`` low-rank updates of the attention, ``full`` the tower, ``last3``, ``last6`` and
``last9`` the last 3, 6 or 9 of the blocks that are run, and ``all`` adapters and tower."""

AUGMENTATIONS = ("published", "weak", "gray", "light", "ultrasound", "none")
RATIOS = (1, 2, 5, 10, 20, 50, 100)
"""The shares of the training split, in percent, that can be used: the published few-shot shares and 100."""


@dataclass(frozen=True)
class Recipe:
    """The hyper-parameters of a training run. The defaults are the published ones for segmentation and classification.

    Attributes:
        method: one of :data:`METHODS`.
        lora_dropout: the dropout of the inputs of low-rank updates.
        epochs: the number of passes over the training split.
        batch: the number of images in an optimizer step, over all processes.
        drop_last: leave out the images that do not fill the last batch of an epoch, other ones in every epoch. A split
            smaller than a batch is one batch.
        accumulate: the number of parts into which each process splits its share of a batch. The parts are computed one
            after the other, which saves memory.
        start: how new adapters start: ``published`` or ``identity``, as for :class:`ht_kernels.HTAdapter`.
        learning_rate: AdamW's learning rate at the start of the cosine schedule.
        adapter_learning_rate: the same for all that is trained inside the tower (adapters, low-rank updates, the tower
            itself); None for ``learning_rate``, which is then for the heads and for these.
        final_learning_rate: AdamW's learning rate at the end of the cosine schedule.
        warmup: the number of epochs before the cosine schedule, in which the learning rate rises to ``learning_rate``;
            at most half of all epochs.
        weight_decay: AdamW's weight decay.
        betas: AdamW's betas.
        clip: the largest norm of the gradient; longer gradients are shortened to it. None for no limit.
        average: the decay of a moving average of the weights, such as 0.99. The averaged weights are validated and
            saved, and training goes on with the others. None for no average.
        validate_every: the number of epochs between validations. The last epoch is always validated.
        validate_offset: the number of epochs by which all validations come later: with 10 and 1 they come after epochs
            11, 21, ...
        patience: training stops after this many validations in a row without a new best score.
        augment: one of :data:`AUGMENTATIONS`.
        ratio: the share of the training split to use, in percent; one of :data:`RATIOS`.
        shots: the number of images of each class to use instead, for classification; None for ``ratio``.
        seed: the seed of the initial heads and adapters, the few-shot subset, the order, augmentation and dropout.
        precision: mixed precision: ``no``, ``bf16`` or ``fp16``.
        negatives: for contrastive, the captions that an image is compared with: those of its whole ``batch``, or those
            of its ``part``, one of ``accumulate`` in a batch. A part then stays in one process, and ``drop_last``
            leaves out images that do not fill a part.
        equal_negatives: for contrastive, whether the caption of another image counts as a wrong one for an image that
            has a caption with the same words, be it the one drawn for this batch or another of its own.
        text_dropout: for contrastive, whether the text tower, which is not trained, drops at random as in training.
        select: the best epoch has the highest ``score`` (:data:`ht_kernels.train.metrics.SCORES`), or, for contrastive,
            the lowest validation ``loss``.

    Raises:
        InputError: a value is unknown or out of range.
        TypeError: a value is no number, or no whole number where one is needed.
    """

    method: str = "ht"
    lora_dropout: float = 0.0
    epochs: int = 200
    batch: int = 32
    drop_last: bool = True
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
    validate_offset: int = 1
    patience: int = 15
    augment: str = "published"
    ratio: int = 100
    shots: int | None = None
    seed: int = 1
    precision: str = "no"
    negatives: str = "batch"
    equal_negatives: bool = False
    text_dropout: bool = False
    select: str = "score"

    def __post_init__(self) -> None:
        for name, known in (
            ("method", METHODS),
            ("start", STARTS),
            ("augment", AUGMENTATIONS),
            ("ratio", RATIOS),
            ("precision", ("no", "bf16", "fp16")),
            ("negatives", ("batch", "part")),
            ("select", ("score", "loss")),
        ):
            value = getattr(self, name)
            if value not in known:
                raise InputError(f"{name} {value!r} is unknown; expected one of {', '.join(map(str, known))}")
        for name, least in (
            ("epochs", 1),
            ("batch", 1),
            ("accumulate", 1),
            ("warmup", 0),
            ("validate_every", 1),
            ("validate_offset", 0),
            ("patience", 1),
            ("shots", 1),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if value is not None and need_whole(name, value) < least:
                raise InputError(f"{name} is {value}, expected {least} or more")
        for name in (
            "learning_rate",
            "adapter_learning_rate",
            "final_learning_rate",
            "weight_decay",
            "clip",
            "average",
            "lora_dropout",
        ):
            value = getattr(self, name)
            if value is not None and not is_real(value):
                raise TypeError(f"{name} must be a number, got {value!r}")
        for name in ("learning_rate", "adapter_learning_rate", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} is {value}, expected a number above 0")
        if self.average is not None and not 0 < self.average < 1:
            raise InputError(f"average is {self.average}, expected a decay between 0 and 1, such as 0.99")
        if not 0 <= self.lora_dropout < 1:
            raise InputError(f"lora_dropout is {self.lora_dropout}, expected 0 or more and less than 1")
        if self.shots is not None and self.ratio != 100:
            raise InputError(f"ratio {self.ratio} and shots {self.shots} were both given, expected one of them")

    @property
    def compared(self) -> int:
        """The number of images and captions among which the contrastive loss compares: a batch, or a part of it."""
        return self.batch if self.negatives == "batch" else math.ceil(self.batch / self.accumulate)

    def images_of(self, images: int) -> int:
        """The number of images that an epoch trains on, of a training split of so many images."""
        whole = images // self.compared * self.compared
        return whole if whole and self.drop_last else images

    def steps_of(self, images: int) -> int:
        """The number of steps of an epoch over a training split of so many images."""
        return math.ceil(self.images_of(images) / self.batch)

    def validates(self, epoch: int) -> bool:
        """Whether there is a validation after an epoch, counted from 1."""
        after = epoch - self.validate_offset
        return epoch == self.epochs or (after > 0 and after % self.validate_every == 0)

    def rate_at(self, step: int, images: int, peak: float) -> float:
        """The learning rate of a step, counted from 0: a linear warm-up to ``peak``, then a cosine to the final rate.

        ``images`` is the number of images in the training split.
        """
        per_epoch = self.steps_of(images)
        warmup, steps = min(self.warmup, self.epochs // 2) * per_epoch, self.epochs * per_epoch
        if step < warmup:
            return peak * (step + 1) / warmup
        cosine = (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
        return self.final_learning_rate + (peak - self.final_learning_rate) * cosine


PUBLISHED_CONTRASTIVE = Recipe(
    lora_dropout=0.1,
    epochs=32,
    batch=256,
    accumulate=4,
    clip=1.0,
    validate_every=1,
    validate_offset=0,
    patience=10,
    augment="none",
    negatives="part",
    equal_negatives=True,
    text_dropout=True,
    select="loss",
)
"""The published recipe for images with captions, that of BiomedCLIP."""

OURS_CONTRASTIVE = replace(
    PUBLISHED_CONTRASTIVE,
    lora_dropout=0.0,
    drop_last=False,
    start="identity",
    negatives="batch",
    equal_negatives=False,
    text_dropout=False,
    select="score",
)
"""The recipe ``ours`` for images with captions: the caption of an image is not taken for a wrong one of another that
has the same among its captions."""

OURS = Recipe(
    epochs=30,
    batch=8,
    drop_last=False,
    start="identity",
    learning_rate=1e-3,
    warmup=2,
    clip=1.0,
    average=0.99,
    validate_every=1,
    validate_offset=0,
    patience=30,
    augment="ultrasound",
)
"""The recipe ``ours``: it starts as heads alone and warms up."""

RECIPES = ("published", "ours")
"""The names of the recipes."""


def named_recipe(name: str, task: str, method: str = "ht") -> Recipe:
    """Return the recipe of a name for a task and a method.

    A pretrained tower is tuned at a lower learning rate than adapters and heads: at 1e-6 as published, at 2e-5 in ours.
    LoRA learns at 3e-4 in ours, for segmentation and classification: in the study of segmentation on BUSI, its loss
    rises again at 1e-3.

    Args:
        name: one of :data:`RECIPES`.
        task: ``segmentation``, ``classification`` or ``contrastive``.
        method: one of :data:`METHODS`.

    Raises:
        InputError: the name or the method is unknown.
    """
    if name not in RECIPES:
        raise InputError(f"recipe {name!r} is unknown; expected one of {', '.join(RECIPES)}")
    contrastive = task == "contrastive"
    if name == "published":
        recipe, rate = PUBLISHED_CONTRASTIVE if contrastive else Recipe(), 1e-6
    else:
        recipe, rate = OURS_CONTRASTIVE if contrastive else OURS, 2e-5
    recipe = replace(recipe, method=method)
    if (name, method) == ("ours", "lora") and not contrastive:
        return replace(recipe, adapter_learning_rate=3e-4)
    if method not in ("full", *LAST):
        return recipe
    return replace(recipe, learning_rate=rate) if contrastive else replace(recipe, adapter_learning_rate=rate)


def uses_adapters(method: str) -> bool:
    """Whether the model of a method has HT adapters. The other methods are baselines without adapters."""
    return method in ("ht", "all")
