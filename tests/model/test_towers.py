"""Which towers are taken and which are refused, and towers of other image sizes."""

import re
from functools import partial

import open_clip
import pytest
import timm
import torch
from torch import nn

from helpers.small_towers import (
    DIM,
    IMAGE,
    PATCH,
    DinoVisionTransformer,
    eva_tower,
    shake,
    small_clip,
    small_tower,
    timm_tower,
)
from ht_kernels import HTCLIP, fold, inject
from ht_kernels.clip.backbone import load_backbone
from ht_kernels.clip.towers import find_tower
from ht_kernels.deploy.folded import why_not_folded
from ht_kernels.errors import InputError

LAYERS = {"feature_layers": (0, 1, 3), "reduce_dim": 16, "bottleneck": 8}


def on_meta(name: str, **options: object) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, num_classes=0, depth=1, **options)


def with_stem() -> nn.Module:
    tower = timm_tower()
    tower.patch_embed.proj = nn.Sequential(nn.Conv2d(3, DIM, 8, 8), nn.Conv2d(DIM, DIM, 2, 2))
    return tower


REFUSED = {
    "a stem of several convolutions": (with_stem, "Sequential.*single convolution"),
    "a stem as backbone": (lambda: on_meta("vit_base_mci_224"), "HybridEmbed, but adapters need a single convolution"),
    "a ResNet as backbone": (lambda: on_meta("vit_tiny_r_s16_p8_224"), "HybridEmbed, but adapters need a single"),
    "overlapping patches": (lambda: strided(8), "stride is its kernel size"),
    "padding": (lambda: timm_tower(img_size=60, dynamic_img_size=True, dynamic_img_pad=True), "pads images of 60x60"),
    "rotary positions": (lambda: on_meta("eva02_tiny_patch14_224"), "RoPE"),
    "no transformer": (lambda: timm.create_model("resnet10t"), "the vision tower is a ResNet"),
    "normalised patches": (lambda: timm_tower(embed_norm_layer=nn.LayerNorm), "normalises its patch embedding"),
}


def strided(stride: int) -> nn.Module:
    tower = timm_tower()
    tower.patch_embed.proj = nn.Conv2d(3, DIM, PATCH, stride)
    return tower


@pytest.mark.parametrize("kind", REFUSED)
def test_a_tower_is_refused_in_words_when_found(kind):
    make, words = REFUSED[kind]
    tower = make()
    for use in (find_tower, inject, HTCLIP):
        with pytest.raises(InputError, match=words):
            use(tower)


@pytest.mark.parametrize("make", [lambda: timm_tower(img_size=70), lambda: eva_tower(img_size=70)])
def test_a_remainder_beside_the_patches_is_cut_off_as_the_tower_does(make):
    model = HTCLIP(make().double(), adapter_layers=(), **LAYERS).eval()
    images, seen = torch.rand(2, 3, 70, 70, dtype=torch.float64), []
    model.tower.blocks[3].register_forward_hook(lambda block, args, out: seen.append(out))
    model.tower.visual(images)
    torch.testing.assert_close(model.features(images)[-1], seen[0][:, 1:], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["open_clip", "openai", "timm", "timm, no prefix", "timm, bare", "eva", "dino"])
def test_a_tower_of_another_size_computes_what_its_module_does(name):
    model = HTCLIP(small_tower(name), adapter_layers=(), image_size=96, **LAYERS).eval()
    images, seen = torch.rand(2, 3, 96, 96, dtype=torch.float64), []
    assert model.config.image_size == 96 and model.tower.grid == (6, 6)
    model.tower.blocks[3].register_forward_hook(lambda block, args, out: seen.append(out))
    model.tower.visual(images)
    got = model.features(images)[-1]
    torch.testing.assert_close(got, model.tower.patches(seen[1 if len(seen) > 1 else 0]), rtol=0, atol=1e-12)
    torch.testing.assert_close(fold(model)(images), model(images), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["dino", "dino, chunks, registers"])
def test_another_size_of_dinov2s_own_code_is_the_one_that_it_computes_itself(name):
    """Its forward interpolates positions for each image, so the features must not change by a resize."""
    tower = small_tower(name)
    images = torch.rand(2, 3, 96, 96, dtype=torch.float64)
    expected = tower(images)
    view = find_tower(tower)
    view.resize(96)
    x = view.embed(images)
    for block in view.blocks:
        x = block(x)
    torch.testing.assert_close(view.finish(x)[:, 0], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(tower(images), expected, rtol=0, atol=1e-12)
    assert view.tokens(x).shape[1] == view.prefix_tokens + 36


@pytest.mark.parametrize("registers", [0, 3])
def test_a_file_of_dinov2s_own_code_goes_into_timms_tower(registers, tmp_path, monkeypatch):
    theirs = shake(DinoVisionTransformer(registers=registers, image=96)).eval()
    torch.save(theirs.state_dict(), tmp_path / "dinov2.pth")
    options = {"reg_tokens": registers, "no_embed_class": registers > 0, "init_values": 0.5}
    made = partial(timm_tower, **options, norm_layer=partial(nn.LayerNorm, eps=1e-5))
    monkeypatch.setattr(timm, "create_model", lambda *args, **options: made())
    ours = load_backbone("timm/vit_small_patch14_dinov2", str(tmp_path / "dinov2.pth")).eval()
    images = torch.rand(2, 3, 96, 96)
    torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["open_clip", "openai"])
def test_positions_are_resampled_as_open_clip_does(name):
    visual = small_tower(name).float().visual
    state = {"visual.positional_embedding": visual.positional_embedding.detach().clone()}
    find_tower(visual).resize(96)
    wanted = small_tower("open_clip").float()
    wanted.visual.grid_size = 6, 6
    open_clip.model.resize_pos_embed(state, wanted)
    torch.testing.assert_close(visual.positional_embedding.detach(), state["visual.positional_embedding"])


@pytest.mark.parametrize("size", [100, 7, 0, -16])
def test_sizes_that_do_not_divide_into_patches_are_refused_with_those_that_do(size):
    near = {100: "96 and 112", 7: "16", 0: "16", -16: "16"}[size]
    with pytest.raises(InputError, match=f"{size}x{size} pixels do not divide into patches of 16x16.*{near}"):
        HTCLIP(small_tower("timm"), image_size=size, **LAYERS)


@pytest.mark.parametrize("backbone", ["timm/vit_tiny_patch16_224", "ViT-B-32"])
def test_a_name_with_a_size_that_does_not_divide_is_refused(backbone):
    with pytest.raises(InputError, match="do not divide into patches"):
        load_backbone(backbone, image_size=100)


def test_weights_made_for_another_size_are_loaded_and_resampled(tmp_path):
    tower = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64)
    path = tmp_path / "weights.pt"
    torch.save(tower.state_dict(), path)
    assert find_tower(load_backbone("timm/vit_tiny_patch16_224", str(path))).image_size == (64, 64)
    loaded = load_backbone("timm/vit_tiny_patch16_224", str(path), image_size=96)
    tower.set_input_size(96)
    torch.testing.assert_close(loaded.pos_embed, tower.pos_embed)


def test_a_checkpoint_keeps_its_size_and_takes_another(tmp_path):
    model = HTCLIP(small_tower("timm"), image_size=96, **LAYERS).eval()
    model.tower.visual.pos_embed.requires_grad_(True)  # a trained tower, whose positions are in the file
    model.save(tmp_path / "model.safetensors")
    same = HTCLIP.from_checkpoint(tmp_path / "model.safetensors", backbone=small_tower("timm")).eval()
    images = torch.rand(1, 3, 96, 96, dtype=torch.float64)
    torch.testing.assert_close(same(images), model(images))
    other = HTCLIP.from_checkpoint(tmp_path / "model.safetensors", backbone=small_tower("timm"), image_size=IMAGE)
    images = torch.rand(1, 3, IMAGE, IMAGE, dtype=torch.float64)
    torch.testing.assert_close(other.eval()(images), model.resize(IMAGE)(images))
    assert other.config.image_size == IMAGE and fold(other)(images).shape == (1, 2, IMAGE, IMAGE)


@pytest.mark.parametrize("form", ["full", "shared", "radial"])
def test_only_filters_without_a_grid_take_another_size(form):
    model = HTCLIP(small_tower("timm"), spectral=form, **LAYERS).eval()
    if form == "radial":
        assert model.resize(96)(torch.rand(1, 1, 96, 96, dtype=torch.float64)).shape == (1, 2, 96, 96)
        return
    with pytest.raises(InputError, match=f"a {form} spectral filter, made for a patch grid of 4x4"):
        model.resize(96)
    assert model.tower.image_size == (IMAGE, IMAGE)


def test_a_contrastive_model_resizes_images_to_its_new_size():
    model = HTCLIP(small_clip(), task="contrastive", bottleneck=8).eval().resize(96)
    assert "96x96" in model.resizing
    assert model(torch.rand(1, 3, 96, 96, dtype=torch.float64)).shape == (1, 8)


def test_what_cannot_be_folded_is_known_before():
    model = HTCLIP(timm_tower(block_fn=timm.models.vision_transformer.ParallelScalingBlock), **LAYERS)
    why = why_not_folded(model)
    assert "block 0 of the tower (ParallelScalingBlock)" in why
    with pytest.raises(InputError, match=re.escape(why)):
        fold(model)
    for block in ("ResPostBlock", "DiffParallelScalingBlock"):
        made = timm_tower(block_fn=getattr(timm.models.vision_transformer, block))
        assert block in why_not_folded(HTCLIP(made, **LAYERS))
    assert "(Block)" in why_not_folded(HTCLIP(timm_tower(attn_layer="diff"), **LAYERS))
    assert why_not_folded(HTCLIP(timm_tower(qk_norm=True), **LAYERS)) is None
