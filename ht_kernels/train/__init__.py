"""Training and evaluation: recipes, the training loop, metrics and reports."""

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
