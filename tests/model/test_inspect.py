"""What ``ht-kernels inspect`` measures and draws."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ht_kernels as ht
from helpers.small_models import gray_frames, small_model
from helpers.small_towers import shake, small_tower
from ht_kernels.cli import main
from ht_kernels.cli.inspect import _draw_filters, change, magnitude, noise_weights_of
from ht_kernels.clip.activations import activation_scales
from ht_kernels.clip.injection import adapters
from ht_kernels.nn import HTAdapter
from ht_kernels.published import PublishedHTCLIP

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("grid", [(4, 6), (5, 7)])
@pytest.mark.parametrize("form", ["full", "radial"])
def test_the_magnitude_is_that_of_the_filters_response(form: str, grid: tuple[int, int]) -> None:
    adapter = shake(ht.HTAdapter(16, 4, "freq_enhanced", form, grid=grid))
    impulse = torch.zeros(1, 4, *grid)
    impulse[..., 0, 0] = 1
    with torch.no_grad():
        response = torch.fft.fft2(adapter.adapter_conv.spectral(impulse))[0]
    got = magnitude(adapter, grid)
    if form == "radial":  # real: the response has its magnitude at every frequency
        torch.testing.assert_close(got, torch.fft.fftshift(response.abs().mean(0)), rtol=1e-4, atol=1e-5)
    inner = slice(1, (grid[1] - 1) // 2 + 1)  # columns whose imaginary parts irfft2 keeps
    theirs = response.abs().mean(0)[:, inner]
    ours = torch.fft.ifftshift(got)[:, inner]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_noise_weights_are_those_of_the_published_estimator() -> None:
    model = small_model("timm", variant="noise_aware")
    frames = gray_frames(model, 2)
    found: dict[int, torch.Tensor] = {}
    published = PublishedHTCLIP.like(model)
    for block, adapter in published.adapters.items():
        estimator = adapter.adapter_conv.noise_estimator
        estimator.register_forward_hook(lambda _, __, out, block=int(block): found.update({block: out.flatten(1)}))
    with torch.no_grad():
        published((frames.double() / 255).repeat(1, 3, 1, 1))
    got = noise_weights_of(model, frames)
    assert got and got.keys() <= found.keys()
    for block, weights in got.items():
        torch.testing.assert_close(weights, found[block], rtol=0, atol=1e-9)


def test_filters_are_shown_by_how_far_they_are_from_one() -> None:
    """In colours and on an axis that are symmetric about it."""
    found = {block: ht.HTAdapter(16, 4, "freq_enhanced") for block in (0, 3)}
    assert not change(found[0], (2, 2)).any()
    assert "none has changed" in _draw_filters(found, (2, 2)).get_suptitle()
    found[0].get_parameter("adapter_conv.freq_filter").data += torch.tensor([0.1, 0, -0.4, 0])
    figure = _draw_filters(found, (2, 2))
    first, second, scale = figure.axes
    assert [bar.get_height() for bar in first.patches] == pytest.approx([0.1, 0, -0.4, 0], abs=1e-6)
    assert first.get_ylim() == second.get_ylim() == pytest.approx((-0.42, 0.42))
    assert scale.get_ylim() == pytest.approx((-0.4, 0.4)) and "changed" not in figure.get_suptitle()[20:]
    spectral = {0: ht.HTAdapter(16, 4, "freq_enhanced", "full", grid=(4, 6))}
    spectral[0].get_parameter("adapter_conv.spectral.mask").data.mul_(1.5)
    drawn = _draw_filters(spectral, (4, 6)).axes[0].images[0]
    assert drawn.get_array().shape == (4, 6) and float(drawn.get_array().max()) == pytest.approx(0.5)
    assert drawn.get_clim() == pytest.approx((-0.5, 0.5))


@pytest.mark.parametrize("spectral", [None, "full"])
def test_command(spectral: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, output = tmp_path / "model.safetensors", tmp_path / "pictures"
    small = {"image_size": 64, "bottleneck": 8, "reduce_dim": 16, "feature_layers": (0, 1), "adapter_layers": (0, 1)}
    model = ht.HTCLIP("timm/vit_tiny_patch16_224", spectral=spectral, **small)
    model.save(checkpoint)
    assert main(["inspect", str(checkpoint), "--output", str(output)]) == 0
    assert "wrote activations.png, filters.png, noise_weights.png" in capsys.readouterr().out
    assert all(
        (output / name).read_bytes()[:4] == b"\x89PNG"
        for name in ("activations.png", "filters.png", "noise_weights.png")
    )


def test_models_without_filters_and_without_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {"image_size": 64, "reduce_dim": 16, "feature_layers": (0, 1)}
    ht.HTCLIP("timm/vit_tiny_patch16_224", variant="baseline", **small).save(tmp_path / "model.safetensors")
    tower = ["--backbone", "timm/vit_tiny_patch16_224", "--image-size", "64"]
    for name, given in {"baseline": [str(tmp_path / "model.safetensors")], "new": tower}.items():
        assert main(["inspect", *given, "--output", str(tmp_path / name)]) == 0
        said = capsys.readouterr()
        assert "behind block 1" in said.out and (tmp_path / name / "activations.png").exists()
        assert ("the tower has random weights" in said.err) == (name == "new")
    assert [path.name for path in (tmp_path / "baseline").iterdir()] == ["activations.png"]
    assert main(["inspect", str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["timm", "openai"])
def test_scales_are_those_of_the_tokens(kind: str) -> None:
    torch.manual_seed(0)
    tower = small_tower(kind).float()
    model = ht.HTCLIP(tower, reduce_dim=16, feature_layers=(0, 2), bottleneck=8, adapter_layers=(0, 2)).eval()
    images = torch.rand(2, 1, *model.tower.image_size)
    scales = activation_scales(model, images)
    assert list(scales) == [0, 1, 2] and scales[1].added is None
    with torch.no_grad():
        x = model.tower.embed(images.expand(-1, 3, -1, -1))
        for i, block in enumerate(model.tower.blocks[:3]):
            adapter = adapters(model.tower).get(i)
            block._forward_hooks.clear()
            x = block(x)
            tokens = model.tower.tokens(x)
            assert scales[i].stream == pytest.approx(float(tokens.square().mean() ** 0.5), rel=1e-5)
            assert scales[i].largest == pytest.approx(float(tokens.square().mean((0, 1)).max() ** 0.5), rel=1e-5)
            if adapter is not None:
                after = HTAdapter.forward(adapter, tokens, model.tower.grid, model.tower.prefix_tokens)
                assert scales[i].added == pytest.approx(float((after - tokens).square().mean() ** 0.5), rel=1e-3)
                x = after if model.tower.batch_first else after.transpose(0, 1)
