"""Training and evaluation: recipes, the training loop, metrics and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ht_kernels.lazy import lazily

if TYPE_CHECKING:
    from .baselines import Baseline, BaselineConfig, new_baseline
    from .calibration import calibrate
    from .examples import Examples, read_examples, simulate_examples
    from .folds import Fold, read_groups, take_fold
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
    "Fold",
    "Outcome",
    "Recipe",
    "Trainer",
    "build",
    "calibrate",
    "named_recipe",
    "new_baseline",
    "prepare",
    "read_examples",
    "read_groups",
    "simulate_examples",
    "start_from",
    "take_fold",
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
        "Fold": ".folds",
        "Outcome": ".trainer",
        "Recipe": ".recipe",
        "Trainer": ".trainer",
        "build": ".start",
        "calibrate": ".calibration",
        "named_recipe": ".recipe",
        "new_baseline": ".baselines",
        "prepare": ".methods",
        "read_examples": ".examples",
        "read_groups": ".folds",
        "simulate_examples": ".examples",
        "start_from": ".start",
        "take_fold": ".folds",
    },
)
