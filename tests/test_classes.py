"""The rule that turns logits into classes."""

from __future__ import annotations

import pytest
import torch

from ht_kernels.class_names import class_count, names_of
from ht_kernels.classes import classes_of


def test_a_single_logit_tells_two_classes_apart() -> None:
    logits = torch.tensor([[[[-2.0, 0.0, 0.5]]]])
    assert class_count(1) == 2 and classes_of(logits).tolist() == [[[0, 0, 1]]]
    assert names_of(1, ("lesion",)) == ("background", "lesion") and names_of(1, None) == ("background", "class 1")


def test_the_largest_of_several_logits_wins() -> None:
    logits = torch.tensor([[0.5, -1.0, 0.6], [3.0, 1.0, 2.0]])
    assert class_count(3) == 3 and classes_of(logits).tolist() == [2, 0] and classes_of(logits).dtype == torch.uint8
    assert names_of(2, ("tissue", "lesion")) == ("tissue", "lesion") and names_of(2, None) == ("class 0", "class 1")


def test_the_larger_of_two_logits_wins_and_the_first_of_equal_ones() -> None:
    logits = torch.tensor([[[[-2.0, 0.0, 0.5]], [[-1.0, 0.0, 0.4]]]])
    assert classes_of(logits).tolist() == [[[1, 0, 0]]] == logits.argmax(1).tolist()
    assert classes_of(logits).dtype == torch.uint8


@pytest.mark.parametrize("count", [3, 8, 32])
def test_the_first_of_several_equal_logits_wins(count: int) -> None:
    logits = torch.randint(0, 3, (2, count, 40, 50), generator=torch.Generator().manual_seed(0)).float()
    first = (logits == logits.amax(1, keepdim=True)).int().cumsum(1).eq(0).sum(1)
    assert torch.equal(classes_of(logits), first.to(torch.uint8))


def test_more_classes_than_a_byte_holds() -> None:
    assert classes_of(torch.eye(300)[[299, 255]]).tolist() == [299, 255]
