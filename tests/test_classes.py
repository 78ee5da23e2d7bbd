"""The rule that turns logits into classes."""

from __future__ import annotations

import pytest
import torch

from ht_kernels.classes import class_count, classes_of, log_probabilities_of, names_of, probabilities_of


def test_a_single_logit_tells_two_classes_apart() -> None:
    logits = torch.tensor([[[[-2.0, 0.0, 0.5]]]])
    assert class_count(1) == 2 and classes_of(logits).tolist() == [[[0, 0, 1]]]
    assert probabilities_of(logits)[0, 1, 0].tolist() == pytest.approx([0.11920292, 0.5, 0.62245933])
    torch.testing.assert_close(probabilities_of(logits).sum(1), torch.ones(1, 1, 3))
    assert names_of(1, ("lesion",)) == ("background", "lesion") and names_of(1, None) == ("background", "class 1")


def test_the_largest_of_several_logits_wins() -> None:
    logits = torch.tensor([[0.5, -1.0, 0.6], [3.0, 1.0, 2.0]])
    assert class_count(3) == 3 and classes_of(logits).tolist() == [2, 0] and classes_of(logits).dtype == torch.uint8
    assert torch.equal(probabilities_of(logits), logits.softmax(1))
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


@pytest.mark.parametrize("count", [1, 3])
def test_logarithms_of_probabilities_stay_finite(count: int) -> None:
    logits = torch.linspace(-3, 3, 2 * count).view(2, count)
    torch.testing.assert_close(log_probabilities_of(logits), probabilities_of(logits).log())
    assert torch.isfinite(log_probabilities_of(1000 * logits)).all()
