"""Operations and bytes of an adapter call: by hand on a small shape, and by torch's own counter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import ht_kernels as ht
from ht_kernels.bench import work
from ht_kernels.functional import ht_adapter

SMALL = work.Sizes(2, 5, 8, 4, (2, 2), hidden=1, scales=3, spectral=False, itemsize=4)
"""Two images of a prefix token and 2x2 patches, 8 wide, a bottleneck of 4."""


def test_forward_by_hand() -> None:
    assert work.forward_stages(SMALL) == {
        "down": (2 * (10 * 8 * 4), 10 * 8 * 4 + 10 * 4 * 4),
        # An image: 16 additions for the mean; 4 + 3 multiply-adds for the estimator; 50 numbers of 4 channels from
        # three products and two additions.
        "noise": (2 * (16 + 2 * 7 + 50 * 4 * 5), 8 * 4 * 4),
        "mix": (2 * (8 * 4 * 49 + 8 * 4 * 4), 10 * 4 * 4),
        "up": (2 * (10 * 4 * 8), 10 * 8 * 4 + 10 * 8 * 4),
    }
    assert work.forward(SMALL) == (640 + 2060 + 3392 + 640, 2 * 10 * 8 * 4)


def test_backward_by_hand() -> None:
    stages = work.backward_stages(SMALL)
    assert stages["down"] == (2 * 2 * (10 * 8 * 4), 3 * 10 * 8 * 4)
    assert stages["up"] == (2 * 2 * (10 * 8 * 4), 10 * 8 * 4)
    # The forward's; three kernels of 50 numbers and 4 channels, twice; the estimator's weights and inputs.
    assert stages["noise"] == (2060 + 2 * (2 * 2 * 3 * 50 * 4 + 2 * (2 * 4 + 2 * 3)), 8 * 4 * 4)
    # Three convolutions and three products with the projector: again, for the input, for the weight.
    assert stages["mix"] == (3 * 2 * (8 * 4 * 49 + 8 * 4 * 4), 3 * 10 * 4 * 4)
    assert work.backward(SMALL) == (1280 + 1280 + 6916 + 10176, 3 * 10 * 8 * 4)
    assert work.step(SMALL) == (6732 + 19652, 5 * 10 * 8 * 4)


def test_the_spectral_filter_by_hand() -> None:
    spectral = replace(SMALL, spectral=True)
    transform = 2 * (2 * 2 * 2 + 2 * 2 * 2 * 2)  # a channel: the rows by a 2x2 matrix, the columns by a 4x4 one
    assert work.forward_stages(spectral)["filter"] == (8 * (2 * transform + 6 * 4), 2 * 8 * 4 * 4)
    assert work.backward_stages(spectral)["filter"] == (8 * (5 * transform + 20 * 4), 5 * 8 * 4 * 4)
    assert work.forward(spectral).bytes == work.forward(SMALL).bytes


def test_without_scales_nothing_is_estimated() -> None:
    one = replace(SMALL, scales=1, hidden=0)
    assert work.forward_stages(one)["noise"] == (2 * 50 * 4, 0)
    assert work.backward_stages(one)["noise"] == (2 * 50 * 4 + 2 * 2 * 50 * 4, 0)


def test_bytes_follow_the_dtype() -> None:
    half = work.forward_stages(replace(SMALL, itemsize=2))
    assert half["down"].bytes == 10 * 8 * 2 + 10 * 4 * 4 and half["up"].bytes == 2 * 10 * 8 * 2
    assert work.forward_stages(replace(SMALL, itemsize=2, h_itemsize=2))["down"].bytes == 10 * 8 * 2 + 10 * 4 * 2


@pytest.mark.usefixtures("one_thread")
def test_products_and_convolutions_as_torch_counts_them() -> None:
    """The reference computes in torch. Its counter knows products and convolutions, the bulk of three stages."""
    adapter = ht.HTAdapter(24, 8, "baseline", dropout=0.0).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        ht_adapter(torch.randn(2, 10, 24), adapter.folded(), (3, 3), backend="reference")
    sizes = work.Sizes(2, 10, 24, 8, (3, 3), hidden=0, scales=1, spectral=False, itemsize=4)
    stages = work.forward_stages(sizes)
    assert counter.get_total_flops() == sum(stages[name].operations for name in ("down", "mix", "up"))
