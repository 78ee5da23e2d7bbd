"""HTCLIP against the published way of computing it, its names, what learns, and what it refuses."""

import copy
import json
import pickle

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from helpers.small_models import LAYERS, small_model
from helpers.small_towers import DEPTH, DIM, IMAGE, MORE_TOWERS, TOWERS, Clip, shake, small_tower
from ht_kernels import HTCLIP, HTAdapter, fold, inject
from ht_kernels.clip import backbone
from ht_kernels.clip.mona import BatchFirstMona
from ht_kernels.clip.towers import DinoTower, TimmTower, find_tower
from ht_kernels.errors import InputError
from ht_kernels.folding import FoldedLevel, fold_pyramid
from ht_kernels.functional import feature_pyramid
from ht_kernels.published import VARIANTS, PublishedHTCLIP

pytestmark = pytest.mark.usefixtures("one_thread")
HEAD_NAMES = {
    ("open_clip", "segmentation"): {"seg_head.1.weight", "seg_head.1.bias"},
    ("timm", "segmentation"): {"seg_head.1.weight", "seg_head.1.bias"},
    ("openai", "segmentation"): {"seg_head.1.weight", "seg_head.1.bias"},
    ("open_clip", "classification"): {"cls_head.3.weight", "cls_head.3.bias"},
    ("timm", "classification"): {"cls_head.3.weight", "cls_head.3.bias"},
    ("openai", "classification"): {"cls_head.2.weight", "cls_head.2.bias", "cls_head.5.weight", "cls_head.5.bias"},
}


def images(model: HTCLIP, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, 3, *model.tower.image_size, dtype=torch.float64, generator=generator)


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("tower", TOWERS)
def test_equals_published(tower, variant, task):
    model = small_model(tower, task, variant)
    x = images(model)
    with torch.no_grad():
        expected = PublishedHTCLIP.like(model)(x)
        assert expected.shape == ((2, 3, IMAGE, IMAGE) if task == "segmentation" else (2, 3))
        torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("tower", MORE_TOWERS)
def test_equals_published_on_other_towers(tower):
    model = small_model(tower)
    x = images(model)
    with torch.no_grad():
        torch.testing.assert_close(model(x), PublishedHTCLIP.like(model)(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("tower", TOWERS)
def test_gradients_equal_published(tower, task):
    model = without_dropout(small_model(tower, task)).train()
    published = without_dropout(PublishedHTCLIP.like(model)).train()
    x = images(model)
    weights = torch.randn_like(model(x))
    (model(x) * weights).sum().backward()
    (published(x) * weights).sum().backward()
    expected = {f"reduces.{name}": p.grad for name, p in published.reduces.named_parameters()}
    expected |= {f"blocks.{name}": p.grad for name, p in published.blocks.named_parameters()}
    head = "seg_head" if task == "segmentation" else "cls_head"
    expected |= {f"{head}.{name}": p.grad for name, p in published.head.named_parameters()}
    owner = {id(p): name for name, p in model.named_parameters()}
    for i in LAYERS:
        mona = model.tower.blocks[i].mona
        ours = dict(getattr(mona, "clip_mona", mona).named_parameters())
        expected |= {owner[id(ours[name])]: p.grad for name, p in published.adapters[i].named_parameters()}
    got = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert got.keys() == expected.keys()
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_published_copy_is_independent():
    model = small_model("open_clip")
    published = PublishedHTCLIP.like(model)
    x = images(model)
    with torch.no_grad():
        before = published(x)
        shake(model)
        torch.testing.assert_close(published(x), before, rtol=0, atol=0)
        assert not torch.allclose(model(x), before)


@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("tower", TOWERS)
def test_names_are_the_published_ones(tower, task):
    path = {"open_clip": "transformer.resblocks", "timm": "trunk.blocks", "openai": "transformer.resblocks"}[tower]
    model = small_model(tower, task)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    in_adapters = {name for name in names if "mona" in name}
    inner = "mona." if tower == "openai" else "mona.clip_mona."
    assert {name.split("mona.")[0] for name in in_adapters} == {f"clip_model.visual.{path}.{i}." for i in range(DEPTH)}
    assert f"clip_model.visual.{path}.0.{inner}adapter_conv.noise_estimator.3.bias" in in_adapters
    pyramid = {f"reduces.{level}.{kind}" for level in range(3) for kind in ("weight", "bias")}
    pyramid |= {f"blocks.{level}.{i}.{kind}" for level in range(3) for i in (0, 1, 3) for kind in ("weight", "bias")}
    assert names - in_adapters == pyramid | HEAD_NAMES[tower, task]


def test_only_adapters_and_heads_learn():
    model = small_model("timm").train()
    with torch.no_grad():
        for block in model.tower.blocks:
            block.mona.clip_mona.adapter_conv.noise_estimator[1].bias.fill_(1.0)  # its ReLU lets gradients through
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(images(model)).square().mean().backward()
    optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    read = tuple(f"clip_model.visual.trunk.blocks.{i}.mona." for i in LAYERS)
    assert {name for name in changed if not name.startswith(("reduces", "blocks", "seg_head"))} == {
        name for name in before if name.startswith(read)
    }


def test_blocks_behind_the_last_feature_layer_do_not_run():
    model = small_model("open_clip")
    model.tower.blocks[3].register_forward_pre_hook(lambda *_: pytest.fail("block 3 ran"))
    model(images(model))


def test_training_mode_reaches_adapters_and_heads_only():
    model = small_model("openai", "classification").train()
    assert not model.tower.blocks[0].training and not model.clip_model.visual.ln_pre.training
    assert model.tower.blocks[0].mona.training and model.tower.blocks[0].mona.dropout.training
    assert model.cls_head[4].training
    assert not any(module.training for module in model.eval().modules())


def test_gray_images_are_repeated():
    model = small_model("open_clip")
    gray = images(model)[:, :1]
    torch.testing.assert_close(model(gray), model(gray.repeat(1, 3, 1, 1)), rtol=0, atol=1e-12)


def test_adapter_layers_and_existing_adapters():
    model = small_model("open_clip", adapter_layers=[1])
    assert [hasattr(block, "mona") for block in model.tower.blocks] == [False, True, False, False]
    x = images(model)
    torch.testing.assert_close(model(x), PublishedHTCLIP.like(model)(x), rtol=0, atol=1e-10)
    clip = inject(small_tower("timm"), "baseline", bottleneck=8)
    adapter = clip.visual.trunk.blocks[0].mona.clip_mona
    model = HTCLIP(clip, variant="baseline", bottleneck=8, feature_layers=LAYERS)
    assert model.tower.blocks[0].mona.clip_mona is adapter and adapter.gamma.requires_grad
    with pytest.raises(ValueError, match=r"'baseline', 8.*'hybrid', 64"):
        HTCLIP(clip, feature_layers=LAYERS)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_independent(copier):
    model = small_model("openai")
    twin = copier(model)
    x = images(model)
    with torch.no_grad():
        before = model(x)
        torch.testing.assert_close(twin(x), before, rtol=0, atol=0)
        shake(twin)
        torch.testing.assert_close(model(x), before, rtol=0, atol=0)
        assert not torch.allclose(twin(x), before)


def test_compiles_without_graph_breaks():
    torch.compiler.reset()
    model = small_model("open_clip")
    x = images(model)
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=1e-12)


def test_summary_counts_every_parameter_once():
    model = small_model("open_clip")
    rows = {row.part: row for row in model.trainable_summary()}
    assert rows["tower"].trainable == 0
    assert rows["head"] == ("head", 3 * 16 + 3, 3 * 16 + 3)
    assert rows["pyramid"].trainable == 3 * (32 * 16 + 16 + 2 * 16 + 2 * (16 * 16 + 16))
    everything = sum(p.numel() for p in model.parameters())
    assert sum(rows[part].total for part in ("tower", "adapters", "pyramid", "head")) == everything
    assert rows["all"].total == everything
    assert "adapters" in str(model.trainable_summary())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_layers": (1, 4)}, r"0 to 3\), got \(1, 4\)"),
        ({"feature_layers": (2, 1)}, "increasing"),
        ({"feature_layers": ()}, "increasing"),
        ({"task": "detection"}, "classification, contrastive, got 'detection'"),
        ({"num_classes": 0}, "positive"),
        ({"class_names": ["one"]}, "num_classes = 3 names, got 1"),
        ({"image_size": 40}, "40x40 pixels do not divide into patches of 16x16.* 32 and 48"),
        ({"pretrained": "openai"}, "with a module"),
        ({"variant": "other"}, "unknown variant 'other'"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        small_model("open_clip", **options)


@pytest.mark.parametrize(
    ("shape", "dtype", "error", "message"),
    [
        ((3, 64, 64), torch.float64, ValueError, "1 or 3, 64, 64"),
        ((1, 3, 32, 64), torch.float64, ValueError, r"got \(1, 3, 32, 64\)"),
        ((1, 2, 64, 64), torch.float64, ValueError, "1 or 3"),
        ((1, 3, 64, 64), torch.uint8, TypeError, "divide pixel values by 255"),
    ],
)
def test_wrong_images(shape, dtype, error, message):
    with pytest.raises(error, match=message):
        small_model("open_clip")(torch.zeros(shape, dtype=dtype))


def test_configuration_makes_the_same_architecture():
    model = HTCLIP("timm/vit_tiny_patch16_224", image_size=64, num_classes=2, class_names=["background", "lesion"])
    assert model.config.class_names == ("background", "lesion")
    twin = HTCLIP(**vars(model.config))
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in twin.state_dict().items()} == shapes
    assert "clip_model.blocks.11.mona.clip_mona.project1.weight" in shapes
    assert twin(torch.rand(1, 3, 64, 64)).shape == (1, 2, 64, 64)


@pytest.fixture
def local_dir(tmp_path):
    """A folder in open_clip's format with a small model, and that model's vision tower."""
    vision = {"image_size": 64, "layers": 4, "width": 32, "head_width": 8, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 10, "width": 8, "heads": 1, "layers": 1}
    config = {"model_cfg": {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    clip = open_clip.model.CLIP(**config["model_cfg"])
    torch.save(clip.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    return tmp_path, clip


def test_local_folder_gives_the_vision_tower_with_its_weights(local_dir):
    folder, clip = local_dir
    model = HTCLIP(f"local-dir:{folder}", feature_layers=LAYERS)
    assert all("clip_model.visual." in name for name in model.state_dict() if name.startswith("clip_model."))
    for name, tensor in clip.visual.state_dict().items():
        torch.testing.assert_close(model.clip_model.visual.state_dict()[name], tensor, rtol=0, atol=0)


def test_weights_of_another_image_size_are_resampled(local_dir):
    folder, _ = local_dir
    model = HTCLIP(f"local-dir:{folder}", feature_layers=LAYERS, image_size=96)
    assert model.tower.grid == (6, 6)
    assert model(torch.rand(1, 1, 96, 96)).shape == (1, 2, 96, 96)


def test_timm_trunk_with_a_text_tower_that_needs_other_packages(tmp_path):
    """BiomedCLIP's form: neither its text tower nor anything from the hub is needed for the vision tower."""
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_model_pretrained": True, "timm_pool": ""}
    vision |= {"timm_proj": "linear", "image_size": 224}
    text = {"hf_model_name": "someone/some-bert", "hf_tokenizer_name": "someone/some-bert", "hf_proj_type": "mlp"}
    config = {"model_cfg": {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    trunk = shake(timm.create_model("vit_tiny_patch16_224", num_classes=0))
    state = {f"visual.trunk.{name}": tensor for name, tensor in trunk.state_dict().items()}
    state |= {"visual.head.proj.weight": torch.zeros(8, 192), "text.transformer.weight": torch.zeros(1)}
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    model = HTCLIP(f"local-dir:{tmp_path}", image_size=64)
    assert model.tower.grid == (4, 4)
    names = model.state_dict()
    assert "clip_model.visual.trunk.blocks.11.mona.clip_mona.project1.weight" in names
    loaded = names["clip_model.visual.trunk.blocks.11.mlp.fc2.weight"]
    torch.testing.assert_close(loaded, trunk.blocks[11].mlp.fc2.weight, rtol=0, atol=0)


def test_weights_that_do_not_fit(local_dir, tmp_path):
    folder, clip = local_dir
    other = tmp_path / "other.pt"
    torch.save({name: t for name, t in clip.state_dict().items() if "resblocks.3" not in name}, other)
    with pytest.raises(InputError, match=r"other\.pt does not fit this tower: .*resblocks\.3"):
        backbone.load_backbone(f"local-dir:{folder}", str(other))
    torch.save({"text.weight": torch.zeros(1)}, other)
    with pytest.raises(InputError, match="no vision tower"):
        backbone.load_backbone(f"local-dir:{folder}", str(other))


class Code:
    def __reduce__(self):
        return (exit, (1,))


def test_weights_that_want_code_are_not_executed(tmp_path):
    path = tmp_path / "bad.pt"
    torch.save({"visual.conv1.weight": Code()}, path)
    with pytest.raises(InputError, match=r"bad\.pt cannot be read as a weights file: it holds .* is not run"):
        HTCLIP("ViT-B-16", pretrained=str(path))
    path.write_bytes(b"not a file of weights")
    with pytest.raises(InputError, match=r"bad\.pt cannot be read as a weights file: it is a text"):
        HTCLIP("ViT-B-16", pretrained=str(path))


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("ViT-B-15", None, "did you mean .*ViT-B-16"),
        ("timm/vit_tiny_patch16_223", None, "did you mean vit_tiny_patch16_224"),
        ("ViT-B-16", "no-such-tag", "expected one of the tags .*openai.*path of a file"),
        (
            "timm/vit_tiny_patch16_224",
            "no/such.pt",
            r"'no/such\.pt' does not exist for vit_tiny_patch16_224; expected one of the tags augreg_in21k.*file",
        ),
        ("RN50", None, "ModifiedResNet"),
        ("timm/convnext_atto", None, "ConvNeXt"),
        ("local-dir:/no/such/folder", None, "could not be read"),
    ],
)
def test_backbones_that_cannot_be_had(name, pretrained, message):
    with pytest.raises(InputError, match=message):
        HTCLIP(name, pretrained)


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("ViT-B-16", "openai", r"no route to host.*pretrained=PATH"),
        ("hf-hub:someone/some-clip", None, r"no route to host.*local-dir:FOLDER"),
        ("timm/vit_tiny_patch16_224", "augreg_in21k", r"no route to host.*pretrained=PATH"),
    ],
)
def test_no_connection_to_the_hub(monkeypatch, name, pretrained, message):
    def offline(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr("open_clip.download_pretrained", offline)
    monkeypatch.setattr("open_clip.factory.download_pretrained_from_hf", offline)
    monkeypatch.setattr("timm.models._builder.load_pretrained", offline)
    with pytest.raises(InputError, match=message):
        HTCLIP(name, pretrained)


def test_text_side_of_a_model_stays():
    clip = small_tower("open_clip")
    model = HTCLIP(clip, feature_layers=LAYERS)
    assert model.clip_model is clip and isinstance(clip, Clip)
    assert not clip.token_embedding.weight.requires_grad


@pytest.mark.parametrize("name", [*TOWERS, *MORE_TOWERS])
def test_tower_view_computes_what_the_model_computes(name):
    """The published oracle runs through this view too, so it is held against the tower's own forward here."""
    model = small_tower(name).eval()
    tower = find_tower(model)
    images = torch.rand(2, 3, *tower.image_size, dtype=torch.float64)
    with torch.no_grad():
        x = tower.embed(images)
        for block in tower.blocks:
            x = block(x)
        if isinstance(tower, TimmTower):
            torch.testing.assert_close(tower.finish(x), tower.visual.forward_features(images))
        elif isinstance(tower, DinoTower):
            torch.testing.assert_close(tower.finish(x)[:, 0], model(images))
        else:
            torch.testing.assert_close(tower.finish(x) @ tower.visual.proj, model.encode_image(images))
    assert tower.patches(x).shape == (2, tower.grid[0] * tower.grid[1], tower.dim)


def test_adapters_called_by_a_replaced_forward():
    """Published code replaces the forward of a block; after ``accelerate`` such a block calls an adapter of ours."""
    clip = small_tower("open_clip")
    for block in clip.visual.transformer.resblocks:
        block.mona = BatchFirstMona(shake(HTAdapter(DIM, 8).double()))
        block.forward = adapted(block, block.forward)
    model = HTCLIP(clip, bottleneck=8, reduce_dim=16, feature_layers=LAYERS).double().eval()
    x = images(model)
    with torch.no_grad():
        published = PublishedHTCLIP.like(model)
        torch.testing.assert_close(model(x), published(x), rtol=0, atol=1e-10)
        torch.testing.assert_close(fold(model)(x), published(x), rtol=0, atol=1e-10)


def adapted(block, original):
    return lambda x, **arguments: block.mona(original(x, **arguments), (4, 4))


def test_foreign_adapters_are_refused():
    clip = small_tower("open_clip")
    clip.visual.transformer.resblocks[2].mona = nn.Linear(DIM, DIM)
    with pytest.raises(ValueError, match=r"block 2 .*Linear.*accelerate"):
        HTCLIP(clip, feature_layers=LAYERS)


def test_local_weights_of_a_timm_model(tmp_path):
    path = tmp_path / "weights.safetensors"
    state = shake(timm.create_model("vit_tiny_patch16_224", num_classes=5)).state_dict()
    save_file(state, path)
    loaded = HTCLIP("timm/vit_tiny_patch16_224", pretrained=str(path)).clip_model.state_dict()
    for name, tensor in state.items():
        if not name.startswith("head."):
            torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=0)
    smaller = HTCLIP("timm/vit_tiny_patch16_224", pretrained=str(path), image_size=96)
    assert smaller.tower.grid == (6, 6)
    assert smaller(torch.rand(1, 1, 96, 96)).shape == (1, 2, 96, 96)


def test_autocast_trains():
    model = small_model("open_clip").float().train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images(model).float())
    expected = model.eval()(images(model).float())
    assert (logits.float() - expected).norm() / expected.norm() < 0.2
    logits.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.seg_head.parameters())


def test_feature_pyramid_says_what_does_not_fit():
    model = small_model("open_clip")
    levels = fold_pyramid(model.reduces, model.blocks, None, None)
    x = torch.zeros(2, 16, DIM, dtype=torch.float64)
    assert feature_pyramid([x] * 3, *levels).shape == (2, 16, 16)
    assert feature_pyramid([x] * 3, *levels, pool=True).shape == (2, 16)
    with pytest.raises(ValueError, match="got 2 for 3 levels"):
        feature_pyramid([x] * 2, *levels)
    with pytest.raises(ValueError, match=rf"features\[1\] must have shape \(batch, tokens, {DIM}\)"):
        feature_pyramid([x, x[..., :5], x], *levels)
    with pytest.raises(TypeError, match=r"features\[2\] must be float32.*got torch.complex128"):
        feature_pyramid([x, x, x.to(torch.complex128)], *levels)
    with pytest.raises(ValueError, match=r"levels\[0\].reduce_weight is on cpu, but features\[0\] is on meta"):
        feature_pyramid([x.to("meta")] * 3, *levels)


@pytest.mark.parametrize("name", FoldedLevel._fields[1:-1])  # the first gives the sizes
def test_feature_pyramid_broadcasts_no_weight(name):
    model = small_model("open_clip")
    levels, bias = fold_pyramid(model.reduces, model.blocks, None, None)
    x = torch.zeros(2, 16, DIM)
    wrong = [*levels[:2], levels[2]._replace(**{name: getattr(levels[2], name)[..., :1]})]
    with pytest.raises(ValueError, match=rf"levels\[2\].{name} must have shape"):
        feature_pyramid([x] * 3, wrong, bias)


@pytest.mark.parametrize("pool", [False, True])
def test_feature_pyramid_takes_a_bias_or_the_scores_of_other_levels(pool):
    model = small_model("open_clip")
    levels, bias = fold_pyramid(model.reduces, model.blocks, None, None)
    x = torch.randn(2, 16, DIM)
    scores = feature_pyramid([x] * 2, levels[:2], bias, pool=pool)
    again = feature_pyramid([x], levels[2:], scores, pool=pool)
    assert torch.equal(again, feature_pyramid([x] * 3, levels, bias, pool=pool))
    for wrong in (bias[:1], bias.sum(), bias[None], scores[:1], scores[None]):
        with pytest.raises(ValueError, match="bias must have shape"):
            feature_pyramid([x] * 3, levels, wrong, pool=pool)
