"""There and back between our checkpoints and those of the published code, in Python and by ``ht-kernels convert``."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import ht_kernels as ht
from helpers.adapters import relative_error
from helpers.clip_folder import clip_folder
from helpers.gpu_random import random_numbers_of_a_gpu
from helpers.published_stand_in import FORMS, TaskModel, build
from helpers.small_models import calibrated, small_model
from helpers.small_towers import shake, small_clip, small_tower
from ht_kernels.choices import FORMS as SPECTRAL
from ht_kernels.cli import main
from ht_kernels.clip.backbone import load_backbone
from ht_kernels.clip.checkpoint import kind
from ht_kernels.clip.injection import adapters
from ht_kernels.clip.published_checkpoint import save_published, to_published
from ht_kernels.errors import InputError
from ht_kernels.published import VARIANTS

pytestmark = pytest.mark.usefixtures("one_thread")
LAYERS = (0, 1, 3)
SIZES: dict[str, Any] = {"num_classes": 3, "reduce_dim": 16, "feature_layers": LAYERS}
FRAMES = torch.rand(2, 3, 64, 64)


def of_tower(tower: str, **options: Any) -> ht.HTCLIP:
    """A model in float32 whose adapters and heads are all random."""
    torch.manual_seed(3)
    model = ht.HTCLIP(small_tower(tower).float(), bottleneck=8, **{**SIZES, **options}).eval()
    for part in (*adapters(model.tower).values(), *model._trainable_parts()):
        shake(part)
    return model


def same(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return got.keys() == expected.keys() and all(torch.equal(got[name], expected[name]) for name in expected)


@torch.no_grad()
@pytest.mark.parametrize("adapter_layers", [None, (0, 2)], ids=["every block", "blocks 0 and 2"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("form", FORMS)
def test_there_and_back(
    tmp_path: Path, form: str, task: str, variant: str, adapter_layers: tuple[int, ...] | None
) -> None:
    """Through a model that other code builds, and that takes every tensor of its own from the file by its name."""
    tower = FORMS[form][0]
    ours = of_tower(tower, task=task, variant=variant, adapter_layers=adapter_layers)
    expected = ours(FRAMES)
    save_published(ours, tmp_path / "a.pth")
    published = TaskModel(build(form, VARIANTS[variant].frequency, VARIANTS[variant].noise), task, LAYERS, 3, 16).eval()
    published.read(torch.load(tmp_path / "a.pth", weights_only=True))
    assert relative_error(published(FRAMES), expected) < 1e-5

    torch.save(published.written(), tmp_path / "b.pth")
    back = ht.HTCLIP.from_checkpoint(tmp_path / "b.pth", backbone=small_tower(tower).float(), feature_layers=LAYERS)
    tensors = back.state_dict()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in ours.state_dict().items())
    assert (back.config.task, back.config.variant) == (task, variant)
    assert torch.equal(back.eval()(FRAMES), expected)


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_back_and_there(tmp_path: Path, form: str) -> None:
    published = TaskModel(build(form), "segmentation", LAYERS, 3, 16).eval()
    torch.save(published.written(), tmp_path / "a.pth")
    tower = small_tower(FORMS[form][0]).float()
    ours = ht.HTCLIP.from_checkpoint(tmp_path / "a.pth", backbone=tower, feature_layers=LAYERS).eval()
    assert relative_error(ours(FRAMES), published(FRAMES)) < 1e-5
    ours.save(tmp_path / "b.safetensors")
    again = ht.HTCLIP.from_checkpoint(tmp_path / "b.safetensors", backbone=small_tower(FORMS[form][0]).float())
    parts = to_published(again)
    assert all(same(parts[name], tensors) for name, tensors in published.written().items())


def test_adapters_that_add_nothing_take_no_random_numbers() -> None:
    model, state = shake(small_model(adapter_layers=(0,))), torch.random.get_rng_state()
    with random_numbers_of_a_gpu() as touched:
        written = to_published(model)
    assert touched == [] and torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, to_published(model)["mona"][name]) for name, value in written["mona"].items())


def test_blocks_without_an_adapter_get_one_that_adds_nothing() -> None:
    model = of_tower("timm", adapter_layers=(1,))
    mona, place = to_published(model)["mona"], "clip_model.visual.trunk.blocks.{}.mona.clip_mona."
    assert {name.split(".")[4] for name in mona} == {"0", "1", "2", "3"}
    new = {b: {n.removeprefix(place.format(b)): t for n, t in mona.items() if f"blocks.{b}." in n} for b in (0, 2, 3)}
    adapter = ht.HTAdapter(model.tower.dim, 8).eval()
    x = torch.randn(2, 17, model.tower.dim)
    for state in new.values():
        adapter.load_state_dict(state)
        assert torch.equal(adapter(x, (4, 4)), x) and state["project1.weight"].any()
    assert same(to_published(model)["mona"], mona)
    assert len({tensor.data_ptr() for tensor in mona.values()}) == len(mona)


@pytest.mark.parametrize(
    ("tower", "form"), [("timm, bare", "timm"), ("timm", "timm"), ("open_clip", "open_clip"), ("openai", "openai")]
)
def test_a_vision_tower_alone_has_the_names_of_a_clip_model(tower: str, form: str) -> None:
    """The published code knows vision towers in CLIP models only."""
    clip_model = small_tower(tower)
    visual = getattr(clip_model, "visual", clip_model)
    model = ht.HTCLIP(getattr(visual, "trunk", visual), bottleneck=8, **SIZES)
    names = TaskModel(build(form), "segmentation", LAYERS, 3, 16).written()["mona"].keys()
    assert to_published(model)["mona"].keys() == names


def test_openai_weights_in_a_tower_of_open_clip(tmp_path: Path) -> None:
    """Only the published code for OpenAI's package has these weights, and its adapters have other names."""
    folder = clip_folder(tmp_path / "clip")
    plain: Any = load_backbone(f"local-dir:{folder}").eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace_module(plain, {"encode_image": FRAMES[:1]}, check_trace=False)
    traced.save(tmp_path / "openai.pt")
    openai = ht.HTCLIP(f"local-dir:{folder}", str(tmp_path / "openai.pt"), bottleneck=8, **SIZES)
    other = ht.HTCLIP(f"local-dir:{folder}", bottleneck=8, **SIZES)
    for model, form in ((openai, "openai"), (other, "open_clip")):
        names = TaskModel(build(form), "segmentation", LAYERS, 3, 16).written()["mona"].keys()
        assert to_published(model)["mona"].keys() == names


@pytest.mark.parametrize(("head", "tower"), [("openai", "open_clip"), ("open_clip", "openai")])
def test_the_classification_head_decides_between_two_packages(tmp_path: Path, head: str, tower: str) -> None:
    torch.save(to_published(of_tower(head, task="classification")), tmp_path / "a.pth")
    back = ht.HTCLIP.from_checkpoint(tmp_path / "a.pth", backbone=small_tower(tower).float(), feature_layers=LAYERS)
    published = TaskModel(build(head), "classification", LAYERS, 3, 16)
    published.read(to_published(back))


@pytest.mark.parametrize("form", SPECTRAL)
def test_a_constant_mask_is_a_gain(tmp_path: Path, form: str) -> None:
    model = small_model("timm", adapter_layers=(0, 2))
    frames, tensors = FRAMES.double(), {name: t.clone() for name, t in to_published(model)["mona"].items()}
    with torch.no_grad():
        expected = model(frames)
        model.to_spectral(form)
        save_published(model, tmp_path / "a.pth")
        back = ht.HTCLIP.from_checkpoint(tmp_path / "a.pth", backbone=small_tower("timm"), feature_layers=(0, 1, 2))
        assert relative_error(back.eval()(frames), expected) < 1e-10
    assert back.config.spectral is None and (form == "shared" or same(to_published(back)["mona"], tensors))
    mask = adapters(model.tower)[2].get_parameter("adapter_conv.spectral.mask")
    for place in ((0, 1), (0, 1, 1, 1)) if form != "radial" else ((0, 1),):  # the second is an imaginary part
        before = mask.detach().clone()
        with torch.no_grad():
            mask[place] += 0.1
        with pytest.raises(InputError, match=f"no place for the {form} spectral filter of block 2"):
            to_published(model)
        mask.data.copy_(before)


def test_what_has_no_place() -> None:
    model = of_tower("open_clip")
    model.get_parameter("clip_model.visual.conv1.weight").requires_grad_(True)
    with pytest.raises(InputError, match=r"weights of the tower, and 1 .* such as clip_model\.visual\.conv1\.weight"):
        to_published(model)
    model = of_tower("timm", task="classification")
    model.cls_head = ht.HTCLIP(small_tower("openai"), task="classification", **SIZES).cls_head
    with pytest.raises(InputError, match="hidden layer goes with OpenAI's tower, and the tower is one of timm"):
        to_published(model)
    with pytest.raises(InputError, match="never subtracts mean and standard deviation"):
        to_published(ht.HTCLIP(small_clip(), task="contrastive"))
    model = ht.HTCLIP(small_clip(), task="contrastive", adapter_layers=(), normalization="published")
    with pytest.raises(InputError, match="only adapters of a contrastive model, and this model has none"):
        to_published(model)


@torch.no_grad()
@pytest.mark.parametrize("form", ["timm", "open_clip", "openai"])
def test_a_contrastive_model_gives_its_adapters_alone(tmp_path: Path, form: str) -> None:
    """By their names in the CLIP model, as the published code takes them, which passes over names it does not know."""
    options = {"task": "contrastive", "bottleneck": 8, "adapter_layers": (0, 2), "normalization": "published"}
    model = ht.HTCLIP(small_clip(form).float(), **options).eval()
    for adapter in adapters(model.tower).values():
        shake(adapter)
    save_published(model, tmp_path / "a.pth")
    published = build(form).eval()
    published.visual.head = getattr(model.clip_model.visual, "head", None)
    state = torch.load(tmp_path / "a.pth", weights_only=True)
    assert state.keys() == {name for name, _ in published.named_parameters() if "mona" in name}
    published.load_state_dict({**published.state_dict(), **state})
    images = torch.rand(2, 3, 64, 64)
    embeddings = torch.nn.functional.normalize(published.encode_image(images), dim=-1)
    assert relative_error(embeddings, model(images)) < 1e-5
    back = ht.HTCLIP.from_checkpoint(tmp_path / "a.pth", backbone=small_clip(form).float(), task="contrastive").eval()
    assert torch.equal(back(images), model(images))


BACKBONE = "timm/vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a timm tower of 12 blocks."""
    path = tmp_path_factory.mktemp("weights") / "tower.pth"
    torch.manual_seed(5)
    torch.save(timm.create_model(BACKBONE.removeprefix("timm/"), num_classes=0).state_dict(), path)
    return path


def saved(path: Path, weights: Path, **options: Any) -> ht.HTCLIP:
    model = ht.HTCLIP(
        BACKBONE, str(weights), image_size=64, **{"bottleneck": 8, "reduce_dim": 16, "adapter_layers": 2, **options}
    ).eval()
    for part in (*adapters(model.tower).values(), *model._trainable_parts()):
        shake(part)
    model.save(path)
    return model


@torch.no_grad()
@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_the_command(tmp_path: Path, weights: Path, task: str, capsys: pytest.CaptureFixture[str]) -> None:
    first, published, last = tmp_path / "a.safetensors", tmp_path / "b.pth", tmp_path / "c.safetensors"
    model = saved(first, weights, task=task, variant="noise_aware", num_classes=3)
    assert main(["convert", str(first), "--output", str(published)]) == 0
    said = capsys.readouterr()
    options = "--mona_variant noise_aware --mona_bottleneck 8 --reduce_dim 16 --num_classes 3 --img_size 64"
    assert said.out == f"wrote {published} for the published code with a tower of timm: {options}\n"
    assert said.err == (
        "The published code as it is does not run this tower: it has tokens of width 192 where its pyramid takes 768.\n"
    )
    assert kind(published) == "published"
    tower = ["--backbone", BACKBONE, "--pretrained", str(weights), "--image-size", "64"]
    assert main(["convert", str(published), "--output", str(last), *tower]) == 0
    assert capsys.readouterr().err == ""
    back = ht.HTCLIP.from_checkpoint(last).eval()
    tensors = back.state_dict()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(back(FRAMES), model(FRAMES)) and back.config.names_weights
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.pth", "c.safetensors"]


@torch.no_grad()
def test_the_command_with_adapters_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backbone = f"local-dir:{clip_folder(tmp_path / 'clip')}"
    options = {"bottleneck": 8, "adapter_layers": (1,), "normalization": "published"}
    model = ht.HTCLIP(backbone, task="contrastive", **options).eval()
    shake(adapters(model.tower)[1])
    first, published, last = tmp_path / "a.safetensors", tmp_path / "b.pth", tmp_path / "c.safetensors"
    model.save(first)
    assert main(["convert", str(first), "--output", str(published)]) == 0
    said = capsys.readouterr()
    assert said.err == "" and said.out.endswith("a tower of open_clip: --mona_variant hybrid --mona_bottleneck 8\n")
    assert kind(published) == "adapters"
    assert main(["convert", str(published), "--output", str(last), "--backbone", backbone]) == 0
    back = ht.HTCLIP.from_checkpoint(last).eval()
    assert back.config.task == "contrastive" and torch.equal(back(FRAMES), model(FRAMES))


def test_the_command_says_what_it_leaves_out(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = saved(tmp_path / "a.safetensors", weights, class_names=("background", "lesion"))
    calibrated(model).save(tmp_path / "a.safetensors")
    assert main(["convert", str(tmp_path / "a.safetensors"), "--output", str(tmp_path / "b.pth")]) == 0
    said = capsys.readouterr().err
    assert "The familiarity is left out" in said and "classes are left out: background, lesion." in said


def test_what_the_command_refuses(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, whole, layers, spectral = (tmp_path / f"{n}.safetensors" for n in ("good", "whole", "layers", "spectral"))
    saved(good, weights).save(whole, tower=True)
    saved(layers, weights, feature_layers=(2, 5, 8))
    saved(spectral, weights, spectral="radial")
    published = tmp_path / "published.pth"
    save_published(ht.HTCLIP.from_checkpoint(good), published)
    out, before = tmp_path / "out.pth", b"what was there"
    for words, arguments in {
        "no place for weights of the tower, and ": [str(whole)],
        "reads the feature layers 3, 6, 9, and this model 2, 5, 8": [str(layers)],
        "reads the feature layers 3, 6, 9, and this model ": ["breast"],
        "no place for the radial spectral filter of block 0": [str(spectral)],
        "does not name its vision tower: pass --backbone": [str(published), "--to", "ours"],
        "has random weights: pass --pretrained": [str(published), "--to", "ours", "--backbone", BACKBONE],
        "has an ending of that format": [str(published), "--backbone", BACKBONE],
        "there is no checkpoint file": [str(tmp_path / "none.pth")],
    }.items():
        out.write_bytes(before)
        assert main(["convert", *arguments, "--output", str(out), "--overwrite"]) == 2, words
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1 and said[0].startswith("ht-kernels convert: ") and words in said[0], said
        assert out.read_bytes() == before
    assert main(["convert", str(good), "--output", str(good), "--to", "published"]) == 2
    assert "is the checkpoint itself" in capsys.readouterr().err
    wrong = tmp_path / "out.safetensors"
    assert main(["convert", str(good), "--output", str(wrong)]) == 2 and not wrong.exists()
    assert main(["convert", str(good), "--output", str(wrong), "--to", "published"]) == 0 and wrong.exists()
    assert main(["convert", str(good), "--output", str(tmp_path / "none" / "a.pth")]) == 2
    assert "cannot be written" in capsys.readouterr().err
