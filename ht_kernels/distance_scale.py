"""What the distances of frames from a model's training images mean; :mod:`ht_kernels.nn.familiarity` defines them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

NOT_CALIBRATED = (
    "the model cannot say how far an image is from those it was trained on: calibrate it with "
    "ht_kernels.train.calibrate, and export it again if this is an exported file"
)


@dataclass(frozen=True)
class DistanceScale:
    """What the distances of a model mean.

    Attributes:
        limit: the distance beyond which an image is unfamiliar.
        quantiles: distances of the validation images, evenly spaced in rank, from the smallest to the largest.
    """

    limit: float
    quantiles: tuple[float, ...]

    def percentile(self, distance: float) -> float:
        """The share of validation images that are nearer, from 0 to 100; 100 for a distance that is not a number."""
        if math.isnan(distance):
            return 100.0
        places = np.linspace(0, 100, len(self.quantiles))
        return float(np.interp(distance, self.quantiles, places))

    def unfamiliar(self, distance: float) -> bool:
        """Whether an image at this distance is unfamiliar. A distance that is not a number is."""
        return not distance <= self.limit

    def sound(self) -> bool:
        """Whether the limit is a positive number, and the quantiles are two or more numbers from 0 on, not falling."""
        steps = itertools.pairwise((0.0, *self.quantiles, math.inf))
        return 0 < self.limit < math.inf and len(self.quantiles) > 1 and all(a <= b for a, b in steps)
