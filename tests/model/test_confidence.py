"""The confidence of a mask, on cases made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from ht_kernels.confidence import mask_confidence
from ht_kernels.logits import upsample


def step(near: float, far: float, width: int = 64) -> NDArray[np.float32]:
    """Logits (2, 64, width) of a mask whose right half is class 1, surer or less sure away from the outline."""
    distance = np.arange(width) - (width - 1) / 2
    row = np.where(np.abs(distance) < 1 + width // 32, near, far) * np.sign(distance)
    return np.stack([np.zeros((64, width)), np.tile(row, (64, 1))]).astype(np.float32)


@pytest.mark.parametrize("width", [64, 96])
def test_the_mean_margin_of_the_band(width: int) -> None:
    """The outline is two pixels wide, and the band reaches a 32nd of the width beyond either."""
    expected = pytest.approx(math.tanh(0.7 / 2))  # the difference of two softmax probabilities
    assert mask_confidence(step(0.7, 9.0, width)) == expected
    assert mask_confidence(step(0.7, 0.7, width)) == expected
    assert mask_confidence(step(0.7, 9.0, width).transpose(0, 2, 1)) == expected
    wider = step(9.0, 0.7, width)
    assert mask_confidence(wider) == pytest.approx(math.tanh(4.5))


def test_a_pixel_too_far_does_not_count_and_one_within_does() -> None:
    logits = step(0.7, 0.7)
    known = mask_confidence(logits)
    logits[1, 5, 34], logits[1, 5, 35] = 0.7, 40.0
    assert mask_confidence(logits) == pytest.approx(known)
    logits[1, 5, 34] = 40.0
    assert mask_confidence(logits) > known


def test_one_logit_and_three_classes() -> None:
    two = step(0.7, 0.7)
    assert mask_confidence(two[1:]) == pytest.approx(mask_confidence(two))
    three = np.concatenate([two, np.full((1, 64, 64), -math.inf, np.float32)])
    assert mask_confidence(three) == pytest.approx(mask_confidence(two))


def test_no_outline() -> None:
    for level in (-1.0, 1.0):
        assert mask_confidence(np.full((1, 8, 8), level, np.float32)) is None


def test_a_small_image() -> None:
    logits = np.full((1, 3, 3), -2, np.float32)
    logits[0, 1, 1] = 2.0
    assert mask_confidence(logits) == pytest.approx(math.tanh(1.0))


def test_a_large_image_has_the_confidence_of_its_small_one() -> None:
    """Only a part of the pixels is looked at."""
    scores = 3 * np.random.default_rng(2).standard_normal((1, 2, 8, 8), np.float32)
    small, large = (upsample(scores, (s, s))[0] for s in (64, 640))
    assert mask_confidence(large) == pytest.approx(mask_confidence(small), abs=0.05)
