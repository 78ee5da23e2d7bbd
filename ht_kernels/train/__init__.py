"""Training and evaluation: recipes, the training loop, metrics and reports."""

from .examples import Examples, read_examples, simulate_examples
from .methods import prepare
from .recipe import AUGMENTATIONS, METHODS, RATIOS, Recipe
from .trainer import Outcome, Trainer

__all__ = [
    "AUGMENTATIONS",
    "METHODS",
    "RATIOS",
    "Examples",
    "Outcome",
    "Recipe",
    "Trainer",
    "prepare",
    "read_examples",
    "simulate_examples",
]
