"""Exponential smoothing over time, which calms a flickering mask and forgets at a scene cut."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ht_kernels.logits import Logits, log_probabilities

from .limits import check_weight

SCENE_CUT = 30.0
"""Frames whose pixels, 0 to 255, differ by more on average show different scenes. Moving speckle differs less."""


class Smoother:
    """Averages class probabilities: ``weight`` times the new frame's, the rest the average so far.

    Args:
        weight: above 0 to 1; 1 smooths nothing.

    Raises:
        InputError: ``weight`` is out of range.
    """

    def __init__(self, weight: float) -> None:
        check_weight(weight)
        # The logarithms of the shares of the average so far and of the new frame.
        self._past, self._new = math.log1p(-weight) if weight < 1 else -math.inf, math.log(weight)
        self._average: Logits | None = None
        self._pixels: NDArray[np.uint8] | None = None

    def __call__(self, logits: Logits, pixels: NDArray[np.uint8]) -> Logits:
        """The logarithms of the average probabilities, (1, C, h, w), of the C classes that K logits tell apart.

        They are logits of the average: upsampled, they give the masks that the logits themselves would give if all
        frames were alike, which probabilities would not.

        Args:
            logits: of the newest frame, (1, K, h, w), on whatever grid the model gives them.
            pixels: what the model saw of it, uint8 (1, 1, H, W); a scene cut shows in them.
        """
        new = log_probabilities(logits)
        before, self._pixels = self._pixels, pixels
        if self._average is None or self._average.shape != new.shape or before is None or _is_cut(before, pixels):
            self._average = new
        else:
            self._average = np.logaddexp(self._average + self._past, new + self._new)
        return self._average

    def forget(self) -> None:
        """Start anew with the next frame."""
        self._average = self._pixels = None


def _is_cut(before: NDArray[np.uint8], now: NDArray[np.uint8]) -> bool:
    difference = np.maximum(before, now) - np.minimum(before, now)
    return bool(difference.sum() > SCENE_CUT * difference.size)
