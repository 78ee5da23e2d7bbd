"""Training and evaluation: recipes, the training loop, metrics and reports."""

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


def __dir__() -> list[str]:
    return __all__
