"""Calibration of a model on the images that it was trained and validated on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ht_kernels as ht
from helpers.layout import make_layout
from helpers.small_models import small_model
from helpers.small_towers import IMAGE, small_clip, small_tower
from helpers.training import train as train_small
from ht_kernels.errors import InputError
from ht_kernels.train import Examples, calibrate, prepare, start_from
from ht_kernels.train.calibration import calibrate_file
from ht_kernels.weights import PHANTOM

pytestmark = pytest.mark.usefixtures("one_thread")


def examples(count: int, seed: int, size: int = IMAGE, level: int = 200) -> Examples:
    """Noise below ``level``, with a brightness that varies between images."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(count, 1, size, size, generator=generator) * level
    images = (noise * torch.rand(count, 1, 1, 1, generator=generator)).to(torch.uint8)
    return Examples(images, torch.zeros(count, size, size, dtype=torch.uint8), tuple(map(str, range(count))), {})


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_images_of_the_same_kind_are_familiar(task: str) -> None:
    model = small_model("timm", task).float().train()
    calibrate(model, examples(60, 0), examples(30, 1), batch=16, device="cpu")
    scale = model.familiarity.scale
    with torch.no_grad():
        same = model.with_distance(examples(50, 2).images / 255)[1]
        val = model.with_distance(examples(30, 1).images / 255)[1]
        other = model.with_distance(torch.ones(2, 1, IMAGE, IMAGE))[1]
    torch.testing.assert_close(model.familiarity.quantiles, val.sort().values, rtol=1e-3, atol=0)
    assert sum(map(scale.unfamiliar, same.tolist())) <= 3
    assert all(map(scale.unfamiliar, other.tolist())) and scale.percentile(float(other[0])) == 100


def test_the_batch_does_not_matter_and_dropout_is_off() -> None:
    model = small_model("timm").float()
    train, val = examples(20, 0), examples(20, 1)
    fitted = []
    for batch in (7, 20):
        model.train()
        calibrate(model, train, val, batch, "cpu")
        fitted.append(model.familiarity)
    torch.testing.assert_close(fitted[0].quantiles, fitted[1].quantiles, rtol=1e-3, atol=0)


def test_too_few_images_and_models_without_features() -> None:
    model = small_model("timm").float()
    with pytest.raises(InputError, match="cannot be calibrated with 5 validation images: at least 10 are needed"):
        calibrate(model, examples(20, 0), examples(5, 1), 16, "cpu")
    assert model.familiarity is None
    pair = ht.HTCLIP(small_clip("open_clip"), task="contrastive", bottleneck=8)
    with pytest.raises(InputError, match="a contrastive model has no feature layers"):
        calibrate(pair, examples(20, 0), examples(20, 1), 16, "cpu")


@pytest.mark.parametrize("keep_adapters", [False, True])
def test_training_that_goes_on_drops_it(keep_adapters: bool, tmp_path: Path) -> None:
    """Other weights give other features."""
    model = ht.HTCLIP.from_checkpoint(PHANTOM)
    calibrate(model, examples(10, 0, 224), examples(10, 1, 224), 10, "cpu")
    model.save(tmp_path / "model.safetensors")
    assert ht.HTCLIP.from_checkpoint(tmp_path / "model.safetensors").familiarity is not None
    assert start_from(tmp_path / "model.safetensors", "ht", keep_adapters).familiarity is None


def test_training_in_place_drops_it() -> None:
    model = small_model("timm").float()
    calibrate(model, examples(20, 0), examples(20, 1), 16, "cpu")
    prepare(model, "ht")
    assert model.familiarity is None


@pytest.mark.parametrize("method", ["ht", "lora"])
def test_a_file_is_calibrated_with_its_own_weights(method: str, tmp_path: Path) -> None:
    """Not with those that the model has, which may be of a later epoch."""
    best = tmp_path / "out/best.safetensors"
    model = train_small(make_layout(tmp_path / "data"), best.parent, method, epochs=1)
    plain = ht.HTCLIP.from_checkpoint(best, backbone=small_tower("timm").float())
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter))
    sets = examples(20, 0), examples(15, 1)
    scale = calibrate_file(best, model, method, *sets, batch=16, device="cpu")
    calibrate(plain, *sets, batch=16, device="cpu")
    read = ht.HTCLIP.from_checkpoint(best, backbone=small_tower("timm").float())
    assert read.familiarity.scale.limit == pytest.approx(scale.limit) == pytest.approx(plain.familiarity.scale.limit)
    kept = read.state_dict()
    assert all(torch.equal(kept[n], t) for n, t in plain.state_dict().items() if not n.startswith("familiarity."))
