"""Exponential smoothing over time, which calms a flickering mask and forgets at a scene cut."""

from __future__ import annotations

import torch
from torch import Tensor

from ht_kernels.errors import InputError

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
        if not 0 < weight <= 1:
            raise InputError(f"the smoothing weight must be above 0 and at most 1, got {weight:g}")
        self._weight = weight
        self._average: Tensor | None = None
        self._pixels: Tensor | None = None

    def __call__(self, logits: Tensor, pixels: Tensor) -> Tensor:
        """Scores (1, K, H, W) whose largest class, or with one class whose sign, is that of the average.

        Args:
            logits: of the newest frame, (1, K, H, W).
            pixels: what the model saw of it, uint8 (1, 1, h, w); a scene cut shows in them.
        """
        new = logits.softmax(1) if logits.shape[1] > 1 else logits.sigmoid()
        before, self._pixels = self._pixels, pixels
        if self._average is None or self._average.shape != new.shape or before is None or _is_cut(before, pixels):
            self._average = new
        else:
            self._average = torch.lerp(self._average, new, self._weight)
        return self._average if logits.shape[1] > 1 else self._average - 0.5

    def forget(self) -> None:
        """Start anew with the next frame."""
        self._average = self._pixels = None


def _is_cut(before: Tensor, now: Tensor) -> bool:
    return bool((before.float() - now.float()).abs().mean() > SCENE_CUT)
