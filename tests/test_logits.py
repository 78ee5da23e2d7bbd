"""What logits say in NumPy is what torch computes of them, with the compiled core and without it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ht_kernels import compiled, logits
from ht_kernels.classes import classes_of

needs_core = pytest.mark.skipif(bool(compiled.missing), reason="there is no compiled core")
counts = st.integers(1, 8) | st.sampled_from((31, 32, 255, 256))
grids = st.tuples(st.integers(1, 9), st.integers(1, 9))
sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


def random_logits(seed: int, *shape: int) -> NDArray[np.float32]:
    return 3 * np.random.default_rng(seed).standard_normal(shape, np.float32)


def upsampled(values: NDArray[np.float32], size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(torch.from_numpy(values), size, mode="bilinear", align_corners=False)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 999), count=counts, grid=grids, size=sizes)
def test_upsampling_is_that_of_torch(seed: int, count: int, grid: tuple[int, int], size: tuple[int, int]) -> None:
    values = random_logits(seed, 2, count, *grid)
    found = logits.upsample(values, size)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_allclose(found, upsampled(values, size).numpy(), atol=3e-5)


def test_upsampling_in_pieces() -> None:
    """Products with many rows and columns are computed a few rows at a time."""
    values = random_logits(0, 1, 2, 14, 14)
    np.testing.assert_allclose(logits.upsample(values, (700, 900)), upsampled(values, (700, 900)).numpy(), atol=3e-5)


@pytest.mark.parametrize("grid", [(1, 1), (4, 5), (14, 14)])
def test_back_on_the_grid(grid: tuple[int, int]) -> None:
    values = random_logits(0, 1, 3, *grid)
    found = logits.to_grid(upsampled(values, (224, 160)).numpy(), grid)
    np.testing.assert_allclose(found, values, atol=1e-4)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 999), count=counts, shape=st.sampled_from(((), (4, 5))))
def test_probabilities_are_those_of_torch(seed: int, count: int, shape: tuple[int, ...]) -> None:
    values = random_logits(seed, 2, count, *shape)
    whole = torch.from_numpy(values)
    if count == 1:
        whole = torch.cat([torch.zeros_like(whole), whole], 1)
    found, logarithms = logits.probabilities(values), logits.log_probabilities(values)
    assert found.dtype == logarithms.dtype == np.float32
    np.testing.assert_allclose(found, whole.softmax(1).numpy(), rtol=1e-5)
    np.testing.assert_allclose(logarithms, whole.log_softmax(1).numpy(), atol=1e-5)
    assert (logits.classes(values) == classes_of(torch.from_numpy(values)).numpy()).all()


def test_a_single_logit_has_the_sigmoid() -> None:
    found = logits.probabilities(np.array([[-2], [0], [0.5]], np.float32))
    assert found[:, 1].tolist() == pytest.approx([0.11920292, 0.5, 0.62245933])
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 3])
def test_large_logits_give_finite_logarithms_and_no_warning(count: int) -> None:
    values = np.linspace(-3000, 3000, 2 * count, dtype=np.float32).reshape(2, count)
    assert np.isfinite(logits.log_probabilities(values)).all() and np.isfinite(logits.probabilities(values)).all()


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 999), count=counts)
def test_the_first_of_equal_logits_wins(seed: int, count: int) -> None:
    """With the core too, in an image of the grid's own size, where no upsampling rounds."""
    values = np.random.default_rng(seed).integers(-1, 2, (2, count, 6, 7)).astype(np.float32)
    expected = classes_of(torch.from_numpy(values)).numpy()
    assert logits.classes(values).dtype == np.uint8 and np.array_equal(logits.classes(values), expected)
    assert np.array_equal(logits.mask_of_grid(values, (6, 7)), expected)


@needs_core
@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 999), count=counts, grid=grids, size=sizes)
def test_masks_without_the_core_are_those_with_it(
    seed: int, count: int, grid: tuple[int, int], size: tuple[int, int]
) -> None:
    """Up to pixels whose two largest logits are equal to rounding."""
    values = random_logits(seed, 2, count, *grid)
    mask = logits.mask_of_grid(values, size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "missing", "it was not built")
        patch.setattr(compiled, "module", None)
        plain = logits.mask_of_grid(values, size)
    assert mask.shape == plain.shape == (2, *size) and mask.dtype == plain.dtype == np.uint8
    largest = np.sort(logits.log_probabilities(logits.upsample(values, size)), 1)[:, -2:]
    clear = np.diff(largest, axis=1)[:, 0] > 1e-4
    assert np.array_equal(mask[clear], plain[clear])


@pytest.mark.parametrize("missing", ["", "it was not built"])
def test_masks_of_views_and_other_types(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing:
        monkeypatch.setattr(compiled, "missing", missing)
    values = random_logits(0, 1, 3, 8, 6)
    expected = logits.mask_of_grid(values, (20, 30))
    assert len(np.unique(expected)) == 3
    assert np.array_equal(logits.mask_of_grid(np.asfortranarray(values), (20, 30)), expected)
    assert np.array_equal(logits.mask_of_grid(values.astype(np.float64), (20, 30)), expected)  # type: ignore[arg-type]
    assert np.array_equal(logits.mask_of_grid(np.repeat(values, 2, 3)[..., ::2], (20, 30)), expected)


@pytest.mark.parametrize("missing", ["", "it was not built"])
def test_logits_and_sizes_that_make_no_mask(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing:
        monkeypatch.setattr(compiled, "missing", missing)
    for shape in ((3, 4, 4), (1, 0, 4, 4), (1, 257, 4, 4), (1, 2, 0, 4)):
        with pytest.raises(ValueError, match=r"logits must have shape \(batch, 1 to 256 classes, height, width\), got"):
            logits.mask_of_grid(np.zeros(shape, np.float32), (8, 8))
    for size in ((0, 8), (8, 2**21)):
        with pytest.raises(ValueError, match=r"size must be \(height, width\), each from 1 to 1048576, got"):
            logits.mask_of_grid(np.zeros((1, 2, 4, 4), np.float32), size)
