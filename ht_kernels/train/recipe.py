"""How a model is trained: the published hyper-parameters, as numbers that can be changed."""

from __future__ import annotations

from dataclasses import dataclass

from ht_kernels.errors import InputError

METHODS = ("ht", "heads", "lora", "full", "all")
"""What is trained beside the heads: adapters; nothing; low-rank updates of attention; the tower; adapters and tower."""

AUGMENTATIONS = ("published", "weak", "gray", "none")
RATIOS = (1, 2, 5, 10, 20, 50, 100)
"""Shares of the training split in percent: few-shot as published, and all of it."""


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters; the defaults are the published ones.

    Attributes:
        method: one of :data:`METHODS`.
        epochs: passes over the training split.
        batch: images of one optimizer step, over all processes.
        accumulate: parts that a process computes its share of a batch in, one after the other.
        learning_rate: of AdamW, at the start of the cosine.
        final_learning_rate: at its end.
        warmup: epochs in which the learning rate rises to ``learning_rate`` first.
        weight_decay: of AdamW.
        betas: of AdamW.
        validate_every: epochs between validations; the last epoch is always validated.
        patience: validations without a better one before training stops.
        augment: one of :data:`AUGMENTATIONS`.
        ratio: percent of the training split that is used.
        seed: of the heads and adapters, the few shots, order, augmentation and dropout.
        precision: ``no``, ``bf16`` or ``fp16``.

    Raises:
        InputError: a value makes no sense.
    """

    method: str = "ht"
    epochs: int = 200
    batch: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-8
    warmup: int = 0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    validate_every: int = 10
    patience: int = 15
    augment: str = "published"
    ratio: int = 100
    seed: int = 1
    precision: str = "no"

    def __post_init__(self) -> None:
        for name, known in (
            ("method", METHODS),
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
        if not self.learning_rate > 0 or not 0 <= self.warmup < self.epochs:
            raise InputError(
                f"learning_rate is {self.learning_rate} and warmup {self.warmup} of {self.epochs} epochs; expected a "
                "positive rate, and a warm-up shorter than the training"
            )
