"""Training and evaluation: recipes, the training loop, metrics and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ht_kernels.lazy import lazily

if TYPE_CHECKING:
    from .baselines import Baseline, BaselineConfig, new_baseline
    from .calibration import calibrate
    from .examples import Examples, read_examples, simulate_examples
    from .methods import prepare
    from .recipe import AUGMENTATIONS, METHODS, RATIOS, RECIPES, Recipe, named_recipe
    from .start import build, start_from
    from .trainer import Outcome, Trainer

__all__ = [
    "AUGMENTATIONS",
    "METHODS",
    "RATIOS",
    "RECIPES",
    "Baseline",
    "BaselineConfig",
    "Examples",
    "Outcome",
    "Recipe",
    "Trainer",
    "build",
    "calibrate",
    "named_recipe",
    "new_baseline",
    "prepare",
    "read_examples",
    "simulate_examples",
    "start_from",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "AUGMENTATIONS": ".recipe",
        "METHODS": ".recipe",
        "RATIOS": ".recipe",
        "RECIPES": ".recipe",
        "Baseline": ".baselines",
        "BaselineConfig": ".baselines",
        "Examples": ".examples",
        "Outcome": ".trainer",
        "Recipe": ".recipe",
        "Trainer": ".trainer",
        "build": ".start",
        "calibrate": ".calibration",
        "named_recipe": ".recipe",
        "new_baseline": ".baselines",
        "prepare": ".methods",
        "read_examples": ".examples",
        "simulate_examples": ".examples",
        "start_from": ".start",
    },
)
