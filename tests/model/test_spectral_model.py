"""Spectral filters in whole models: checkpoints, the folded model and its exports."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ht_kernels as ht
from helpers.adapters import relative_error
from helpers.exports import error, run, some_frames
from helpers.small_models import small_model
from helpers.small_towers import TOWERS, small_tower
from ht_kernels.choices import FORMS
from ht_kernels.deploy import export_onnx
from ht_kernels.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")
LAYERS = (0, 1, 3)  # the last one: every adapter then has gradients
FRAMES = torch.rand(2, 3, 64, 64, dtype=torch.float64)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tower", TOWERS)
def test_the_model_its_checkpoint_and_what_is_deployed(tmp_path: Path, tower: str, form: str) -> None:
    model = small_model(tower, spectral=form, feature_layers=LAYERS)
    model(FRAMES).square().sum().backward()
    masks = [p.grad for name, p in model.named_parameters() if name.endswith("adapter_conv.spectral.mask")]
    assert len(masks) == 4 and all(g is not None and g.any() for g in masks)
    expected = model(FRAMES)
    model.save(tmp_path / "ours.safetensors")
    ours = ht.HTCLIP.from_checkpoint(tmp_path / "ours.safetensors", backbone=small_tower(tower)).eval()
    assert ours.config == model.config and ours.config.spectral == form
    assert torch.equal(ours(FRAMES), expected)
    torch.save(model.state_dict(), tmp_path / "whole.pth")
    whole = ht.HTCLIP.from_checkpoint(tmp_path / "whole.pth", backbone=small_tower(tower), feature_layers=LAYERS)
    assert torch.equal(whole.eval()(FRAMES), expected)
    assert relative_error(ht.fold(model)(FRAMES), expected) < 1e-9
    folded = ht.fold(model.float())
    export_onnx(folded, tmp_path / "model.onnx", batch=2)
    frames = some_frames(folded, 2)
    assert error(run(tmp_path / "model.onnx", frames), folded(frames)) < 1e-4


def test_a_model_with_gains_converts(tmp_path: Path) -> None:
    model = small_model("timm")
    expected = model(FRAMES)
    model.save(tmp_path / "gain.safetensors")
    for form in FORMS:
        backbone = small_tower("timm")
        ours = ht.HTCLIP.from_checkpoint(tmp_path / "gain.safetensors", backbone=backbone, spectral=form).eval()
        assert ours.config.spectral == form and relative_error(ours(FRAMES), expected) < 1e-10
    ours.save(tmp_path / "radial.safetensors")
    with pytest.raises(InputError, match="cannot be converted: spectral 'full' needs an adapter with a gain"):
        ht.HTCLIP.from_checkpoint(tmp_path / "radial.safetensors", backbone=small_tower("timm"), spectral="full")
