"""Numbers: as callers pass them, and in sentences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ht_kernels as ht
from ht_kernels.arguments import is_real, pair, whole
from ht_kernels.words import counted


def test_numbers_of_things() -> None:
    assert [counted(n, "frame") for n in (0, 1, 2)] == ["0 frames", "1 frame", "2 frames"]
    assert [counted(2, noun) for noun in ("class", "batch", "training image")] == [
        "2 classes",
        "2 batches",
        "2 training images",
    ]


def test_numbers_of_any_library() -> None:
    for three in (3, np.int64(3), np.uint8(3), torch.tensor(3)):
        assert whole(three) == 3 and type(whole(three)) is int
        assert pair((three, 4)) == pair([three, 4]) == (3, 4)
    for wrong in (3.0, "3", None, True, np.bool_(True), [3]):
        assert whole(wrong) is None and pair((wrong, 4)) is None
    assert pair(3) is None and pair((1, 2, 3)) is None
    assert is_real(3) and is_real(np.float32(0.5)) and not (is_real("3") or is_real(None) or is_real(True))


@pytest.mark.parametrize("name", ["data", "deploy", "functional", "video"])
def test_completion_shows_the_public_names(name: str) -> None:
    """Those that are imported at first use, too, and none that a module only imports."""
    module = getattr(ht, name)
    assert dir(module) == sorted(module.__all__)
    assert all(hasattr(module, public) for public in module.__all__)
