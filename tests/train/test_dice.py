"""The Dice coefficient, against MONAI's and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ht_kernels.dice import dice


def test_by_hand() -> None:
    one, other = np.array([1, 1, 1, 0], bool), np.array([0, 1, 1, 0], bool)
    assert dice(one, other) == dice(other, one) == 0.8
    assert dice(one, one) == 1 and dice(one, ~one) == 0 and math.isnan(dice(one & ~one, one & ~one))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5])
def test_is_that_of_monai(share: float) -> None:
    metrics = pytest.importorskip("monai.metrics")
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.rand(31, 17, generator=generator) < p for p in (share, 0.3))
    expected = metrics.compute_dice(one[None, None].float(), other[None, None].float(), include_background=True)
    assert dice(one, other) == pytest.approx(float(expected), abs=1e-6)
    assert dice(one.numpy(), other.numpy()) == dice(one, other)
