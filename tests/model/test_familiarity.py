"""How far an image is from the training images: the arithmetic, the limit, and where a model keeps it."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import ht_kernels as ht
from helpers.small_models import calibrated, gray_frames, small_model
from helpers.small_towers import MORE_TOWERS, TOWERS, small_tower
from ht_kernels.clip.published_checkpoint import to_published
from ht_kernels.distance_scale import DistanceScale
from ht_kernels.errors import InputError
from ht_kernels.nn import Familiarity
from ht_kernels.nn.familiarity import DIRECTIONS, FALSE_ALARMS, FEWEST, _student

pytestmark = pytest.mark.usefixtures("one_thread")


def drawn(count: int, width: int, seed: int = 0) -> torch.Tensor:
    """Normally distributed features that are correlated, and some 50 times larger than others."""
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64) * torch.linspace(1, 50, width)
    generator.manual_seed(seed + 2)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) @ mixing + 3


def ledoit_wolf(rows: np.ndarray) -> np.ndarray:
    """The shrunk covariance, term by term as in the paper."""
    count, width = rows.shape
    sample = rows.T @ rows / count
    mean = np.trace(sample) / width
    apart = ((sample - mean * np.eye(width)) ** 2).sum() / width
    noise = sum(((np.outer(row, row) - sample) ** 2).sum() for row in rows) / width / count**2
    share = min(noise, apart) / apart
    return share * mean * np.eye(width) + (1 - share) * sample


@pytest.mark.parametrize("count", [12, DIRECTIONS])
def test_equals_mahalanobis_of_the_shrunk_covariance(count: int) -> None:
    """With no more images than directions are stored, nothing is left out."""
    train, val, others = drawn(count, 50), drawn(20, 50, seed=1), drawn(7, 50, seed=2) * 1.5
    known = train.numpy()
    mean, spread = known.mean(0), known.std(0)
    scaled = (others.numpy() - mean) / spread
    inverse = np.linalg.inv(ledoit_wolf((known - mean) / spread))
    expected = np.sqrt(np.einsum("bi,ij,bj->b", scaled, inverse, scaled) / 50)
    got = Familiarity.fit(train, val)(others.float())
    assert got.dtype == torch.float32 and got.shape == (7,)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4)


def test_the_directions_left_out_share_their_mean_variance() -> None:
    train, others = drawn(200, 50), drawn(7, 50, seed=2)
    known = train.numpy()
    mean, spread = known.mean(0), known.std(0)
    variances, directions = np.linalg.eigh(ledoit_wolf((known - mean) / spread))
    variances[:-DIRECTIONS] = variances[:-DIRECTIONS].mean()
    scaled = (others.numpy() - mean) / spread @ directions
    fitted = Familiarity.fit(train, drawn(20, 50, seed=1))
    assert fitted.directions.shape == (DIRECTIONS, 50)
    np.testing.assert_allclose(fitted(others), np.sqrt((scaled**2 / variances).sum(1) / 50), rtol=1e-4)


def test_what_it_says_of_other_images() -> None:
    fitted = Familiarity.fit(drawn(300, 60), drawn(45, 60, seed=1))
    same, shifted = fitted(drawn(1000, 60, seed=2)), fitted(drawn(1000, 60, seed=3) + 100)
    assert 0.8 < float(same.mean()) < 1.3
    assert shifted.min() > fitted.limit and same.median() < fitted.limit


@pytest.mark.parametrize("count", [15, 45, 200])
def test_the_limit_gives_the_false_alarms_that_it_is_for(count: int) -> None:
    """One in a hundred, on average over calibrations; the largest of the validation images would give 1 / (M + 1)."""
    train, tests = drawn(300, 60), drawn(4000, 60, seed=1)
    fitted = Familiarity.fit(train, drawn(FEWEST, 60))
    distances = fitted(tests.float()).double().numpy()
    shares = []
    for seed in range(60):
        limit = float(Familiarity.fit(train, drawn(count, 60, seed=10 + seed)).limit)
        shares.append(float((distances > limit).mean()))
    assert FALSE_ALARMS / 2 < np.mean(shares) < FALSE_ALARMS * 1.7, np.mean(shares)


@pytest.mark.parametrize(("freedom", "quantile"), [(9, 2.821), (44, 2.414), (1000, 2.330)])
def test_quantiles_of_student(freedom: int, quantile: float) -> None:
    """Against the tables."""
    assert _student(0.99, freedom) == pytest.approx(quantile, abs=2e-3)


def test_percentiles() -> None:
    scale = DistanceScale(3.0, (1.0, 1.5, 2.5))
    assert [scale.percentile(d) for d in (0.5, 1.0, 1.25, 1.5, 2.0, 9.0)] == [0, 0, 25, 50, 75, 100]
    assert [scale.unfamiliar(d) for d in (3.0, 3.01, math.nan, math.inf)] == [False, True, True, True]
    assert scale.percentile(math.nan) == 100
    few, many = (Familiarity.fit(drawn(30, 9), drawn(n, 9, seed=1)) for n in (12, 500))
    distances = few(drawn(12, 9, seed=1).float()).sort().values
    torch.testing.assert_close(few.quantiles, distances)
    assert many.quantiles.shape == (101,) and many.scale.sound()


def test_it_is_small() -> None:
    fitted = Familiarity.fit(drawn(40, 3 * 384), drawn(20, 3 * 384))
    assert sum(buffer.nbytes for buffer in fitted.buffers()) < 400_000


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        (drawn(FEWEST - 1, 5), drawn(20, 5), "with 9 training images: at least 10"),
        (drawn(20, 5), drawn(3, 5), "with 3 validation images: at least 10"),
        (drawn(20, 5) * math.inf, drawn(20, 5), "some training images are not finite"),
        (drawn(20, 5), drawn(20, 5) * math.nan, "some validation images are not finite"),
        (torch.ones(20, 5), drawn(20, 5), "have the same features"),
        (drawn(2, 5).repeat(6, 1), drawn(20, 5), "differ too little from each other"),
        (drawn(20, 5), drawn(20, 6), r"shape \(N, 5\), got \(20, 6\)"),
    ],
)
def test_what_cannot_be_fitted(train: torch.Tensor, val: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Familiarity.fit(train, val)


def test_a_feature_that_never_varies() -> None:
    """It must not turn rounding into distance."""
    train, val = drawn(40, 20), drawn(20, 20, seed=1)
    train[:, 3] = val[:, 3] = 7.0
    fitted = Familiarity.fit(train, val)
    near = val.float()
    near[:, 3] += 1e-5
    torch.testing.assert_close(fitted(near), fitted(val.float()), rtol=1e-3, atol=0)


@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("tower", ["openai", "timm, registers, layer scale, pre-norm", "timm, no prefix"])
def test_a_model_gives_logits_and_distances(tower: str, task: str) -> None:
    model = calibrated(small_model(tower, task))
    images = gray_frames(model).double() / 255
    logits, distances = model.with_distance(images)
    assert torch.equal(logits, model(images))
    means = [tokens.mean(1) for tokens in model.features(images)]
    torch.testing.assert_close(distances, model.familiarity(torch.cat(means, 1)), rtol=1e-12, atol=0)
    assert distances.shape == (3,) and distances.std() > 0


@pytest.mark.parametrize(
    ("tower", "task"), [*((tower, "segmentation") for tower in (*TOWERS, *MORE_TOWERS)), ("openai", "classification")]
)
def test_the_folded_model_gives_the_same(tower: str, task: str) -> None:
    model = calibrated(small_model(tower, task))
    frames, folded = gray_frames(model), ht.fold(model)
    logits, distances = folded.with_distance(frames)
    assert torch.equal(logits, folded(frames))
    torch.testing.assert_close(distances, model.with_distance(frames.double() / 255)[1], rtol=1e-8, atol=0)
    assert {name for name, _ in folded.named_buffers()} >= {"familiarity.mean", "familiarity.directions"}
    theirs = {t.data_ptr() for t in model.familiarity.buffers()}
    assert theirs.isdisjoint(t.data_ptr() for t in folded.familiarity.buffers())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_keep_the_distance_in_float32(dtype: torch.dtype) -> None:
    model = calibrated(small_model())
    frames = gray_frames(model)
    exact = ht.fold(model).with_distance(frames)[1]
    folded = ht.fold(model, dtype)
    assert {buffer.dtype for buffer in folded.familiarity.buffers()} == {torch.float32}
    got = folded.with_distance(frames)[1]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), exact, rtol=0.05, atol=0)


def test_without_calibration() -> None:
    model = small_model()
    with pytest.raises(InputError, match="calibrate it with"):
        model.with_distance(gray_frames(model) / 255)
    with pytest.raises(InputError, match="calibrate it with"):
        ht.fold(model).with_distance(gray_frames(model))
    assert model.familiarity is None and not any("familiarity" in name for name in model.state_dict())


def test_it_is_no_part_to_train() -> None:
    model = calibrated(small_model())
    before = small_model().trainable_summary()
    assert model.trainable_summary() == before
    assert str(copy.deepcopy(model).trainable_summary()) == str(before)


def test_another_size_drops_it() -> None:
    model = calibrated(small_model())
    assert model.resize(64).familiarity is not None
    assert model.resize(32).familiarity is None
    spectral = calibrated(small_model())
    frames = gray_frames(spectral) / 255
    expected = spectral.with_distance(frames)[1]
    torch.testing.assert_close(spectral.to_spectral("radial").with_distance(frames)[1], expected)


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[ht.HTCLIP, Path]:
    model = calibrated(small_model())
    model.save(tmp_path / "model.safetensors")
    return model, tmp_path / "model.safetensors"


def test_there_and_back(checkpoint: tuple[ht.HTCLIP, Path]) -> None:
    model, path = checkpoint
    loaded = ht.HTCLIP.from_checkpoint(path, backbone=small_tower("timm")).eval()
    for name, buffer in model.familiarity.named_buffers():
        torch.testing.assert_close(loaded.familiarity.get_buffer(name), buffer.float(), rtol=0, atol=0)
    frames = gray_frames(model) / 255
    torch.testing.assert_close(loaded.with_distance(frames)[1].double(), model.with_distance(frames)[1])
    assert not any("familiarity" in name for part in to_published(model).values() for name in part)
    with pytest.warns(UserWarning, match="at 32 pixels it gives no distances"):
        small = ht.HTCLIP.from_checkpoint(path, backbone=small_tower("timm"), image_size=32)
    assert small.familiarity is None
    model.familiarity = None
    model.save(path)
    assert ht.HTCLIP.from_checkpoint(path, backbone=small_tower("timm")).familiarity is None


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("variances", lambda t: -t, "variances has values that are not positive"),
        ("spread", lambda t: 0 * t, "spread has values that are not positive"),
        ("remainder", lambda t: -t, "remainder has values that are not positive"),
        ("limit", lambda t: -t, "limit is not positive"),
        ("quantiles", lambda t: t.flip(0), "quantiles fall"),
        ("quantiles", lambda t: t[:1], "quantiles fall"),
        ("quantiles", lambda t: t[None], "without the quantiles"),
        ("directions", None, "without the directions"),
        ("mean", None, "familiarity.mean is missing"),
        ("mean", lambda t: t[:5], r"familiarity.mean has shape \(5,\), expected \(96,\)"),
        ("variances", lambda t: t[:2], r"familiarity.variances has shape \(2,\)"),
        ("limit", lambda t: t * math.nan, "familiarity.limit has values that are not finite"),
        ("more", lambda t: torch.ones(1), "familiarity.more is unknown"),
    ],
)
def test_a_damaged_checkpoint(checkpoint: tuple[ht.HTCLIP, Path], name: str, change: object, message: str) -> None:
    _, path = checkpoint
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    key = f"familiarity.{name}"
    if change is None:
        del tensors[key]
    else:
        tensors[key] = change(tensors.get(key, torch.ones(1))).contiguous()
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(InputError, match=message):
        ht.HTCLIP.from_checkpoint(path, backbone=small_tower("timm"))
