"""The image-text model: embeddings of both towers, preprocessing, checkpoints, folding."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.transform import image_transform_v2
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import ht_kernels as ht
from helpers.clip_folder import TIMM, clip_folder
from helpers.layout import make_layout
from helpers.published_stand_in import build as published_clip
from helpers.small_towers import IMAGE, shake, small_clip, small_tower
from ht_kernels.cli import main
from ht_kernels.clip.published_checkpoint import to_published
from ht_kernels.deploy import check_onnx, export_onnx, read_manifest
from ht_kernels.errors import InputError
from ht_kernels.train import start_from

TEXTS = ["a benign tumour", "a cyst at the upper left"]


def build(name: str = "open_clip", **options: object) -> ht.HTCLIP:
    torch.manual_seed(1)
    model = ht.HTCLIP(small_clip(name), task="contrastive", bottleneck=8, **options)
    for block in model.tower.blocks:
        shake(block.mona)
    return model.eval()


@pytest.mark.parametrize("name", ["open_clip", "timm", "openai"])
def test_embeddings(name: str) -> None:
    plain, model = small_clip(name).eval(), build(name)
    images = torch.rand(2, 3, IMAGE, IMAGE, dtype=torch.float64)
    with torch.no_grad():
        got, texts = model(images), model.encode_text(TEXTS)
        assert torch.equal(got, model.encode_image(images))
        for norm in (got, texts):
            torch.testing.assert_close(norm.norm(dim=-1), torch.ones(2).double())
        # The text tower is the CLIP model's own, and without adapters so is the image tower.
        tokens = open_clip.tokenizer.SimpleTokenizer(context_length=16)(TEXTS)
        torch.testing.assert_close(texts, F.normalize(plain.encode_text(tokens), dim=-1))
        assert torch.equal(texts, model.encode_text(tokens))
        bare = ht.HTCLIP(small_clip(name), task="contrastive", adapter_layers=())(images)
        mean, std = (
            torch.tensor(t).view(3, 1, 1) for t in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
        )
        torch.testing.assert_close(bare, F.normalize(plain.encode_image((images - mean) / std), dim=-1))
    assert not torch.allclose(bare, got, atol=1e-3)


def pooled_model(name: str) -> ht.HTCLIP:
    """Of a name of small_clip, or around a bare timm tower, whose embedding is the pooled tokens."""
    if name in ("open_clip", "timm", "openai"):
        return build(name)
    clip = small_clip("open_clip")
    if name == "timm, mean behind registers":
        clip.visual = small_tower("timm, registers, layer scale, pre-norm")
        clip.visual.reset_classifier(0, "avg")  # the norm still stands before the pooling
    else:
        clip.visual = small_tower(name)
    return ht.HTCLIP(clip, task="contrastive", bottleneck=8).eval()


ENDS = ["open_clip", "timm", "openai", "timm, no prefix", "timm, not square", "timm, mean behind registers"]


@pytest.mark.parametrize("name", ENDS)
def test_folded_is_the_same(name: str) -> None:
    model = pooled_model(name)
    frames = torch.randint(0, 256, (3, 3, *model.tower.image_size), dtype=torch.uint8)
    with torch.no_grad():
        for images in (frames, frames[:, :1]):
            folded, expected = ht.fold(model)(images), model(images.double() / 255)
            torch.testing.assert_close(folded, expected, rtol=1e-9, atol=1e-9)
        single = ht.fold(model.float())
        torch.testing.assert_close(single(frames), model(frames.float() / 255), rtol=1e-4, atol=1e-5)
        assert (single(frames) * ht.fold(model, torch.bfloat16)(frames)).sum(1).min() > 0.99
    assert not list(single.parameters())
    with pytest.raises(ValueError, match="output_size goes with segmentation"):
        single(frames, output_size=(8, 8))


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_export(name: str, precision: str, tmp_path: Path) -> None:
    model = pooled_model(name).float()
    frames = torch.randint(0, 256, (2, 3, *model.tower.image_size), dtype=torch.uint8)
    folded = ht.fold(model)
    export_onnx(folded, tmp_path / "model.onnx", precision=precision, batch=(1, 2, 4), channels=3)
    report = check_onnx(folded, tmp_path / "model.onnx", frames)
    assert report.passed, report.failures
    assert report.agreement_mean is None and report.dice_mean is None


def test_another_end_is_refused() -> None:
    clip = small_clip("timm")
    clip.visual.head.append(torch.nn.GELU())
    with pytest.raises(InputError, match=r"the end of the tower cannot be folded: .* Linear, GELU$"):
        ht.fold(ht.HTCLIP(clip, task="contrastive"))


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, IMAGE),
        ({"mean": [0.5] * 3, "std": [0.25] * 3, "resize_mode": "squash"}, IMAGE),
        ({"model": TIMM, "custom_text": True}, 160),
    ],
)
def test_a_model_by_name_is_the_one_of_open_clip(options: dict[str, object], size: int, tmp_path: Path) -> None:
    place = clip_folder(tmp_path / "clip", **options)
    model = ht.HTCLIP(f"local-dir:{place}", task="contrastive", adapter_layers=()).eval()
    theirs = open_clip.create_model(f"local-dir:{place}").eval()
    transform = image_transform_v2(open_clip.transform.PreprocessCfg(**theirs.visual.preprocess_cfg), is_train=False)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8))
    pixels = model.preprocess(image)
    assert pixels.shape == (3, size, size) and 0 <= pixels.min() < pixels.max() <= 1
    with torch.no_grad():
        expected = theirs.encode_image(transform(image)[None], normalize=True)
        torch.testing.assert_close(model(pixels[None]), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ht.fold(model)(pixels[None]), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            model.encode_text(TEXTS), theirs.encode_text(open_clip.get_tokenizer(f"local-dir:{place}")(TEXTS), True)
        )


def test_what_trains() -> None:
    model = build().train()
    assert all(".mona." in name for name, p in model.named_parameters() if p.requires_grad)
    model(torch.rand(2, 1, IMAGE, IMAGE)).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert not model.clip_model.training and model.tower.blocks[0].mona.clip_mona.training
    rows = {row.part: row for row in model.trainable_summary()}
    assert rows.keys() == {"tower", "adapters", "all"} and rows["all"].trainable == rows["adapters"].total


def test_checkpoints(tmp_path: Path) -> None:
    place = clip_folder(tmp_path / "clip", mean=[0.4] * 3)
    torch.manual_seed(2)
    options = {"bottleneck": 8, "normalization": "published"}
    model = ht.HTCLIP(f"local-dir:{place}", task="contrastive", **options).eval()
    for block in model.tower.blocks:
        shake(block.mona)
    model.save(tmp_path / "model.safetensors")
    torch.save(to_published(model), tmp_path / "published.pt")
    images = torch.rand(2, 3, IMAGE, IMAGE)
    again = ht.HTCLIP.from_checkpoint(tmp_path / "model.safetensors").eval()
    published = ht.HTCLIP.from_checkpoint(
        tmp_path / "published.pt", backbone=f"local-dir:{place}", task="contrastive"
    ).eval()
    with torch.no_grad():
        for other in (again, published):
            assert torch.equal(other(images), model(images)) and other.config.task == "contrastive"
            assert torch.equal(other.encode_text(TEXTS), model.encode_text(TEXTS))
    assert ht.HTCLIP(**vars(model.config)).config == model.config
    with pytest.raises(InputError, match="bias is missing and pixel_mean is unknown"):
        ht.HTCLIP.from_checkpoint(
            tmp_path / "model.safetensors", task="segmentation", num_classes=2, reduce_dim=8, feature_layers=(1,)
        )


@torch.no_grad()
@pytest.mark.parametrize("form", ["timm", "open_clip", "openai"])
def test_published_adapters_get_pixels_as_the_published_code_feeds_them(form: str, tmp_path: Path) -> None:
    published = published_clip(form)
    published.visual.head = getattr(small_clip(form).float().visual, "head", None)
    published.eval()
    torch.save({n: p for n, p in published.named_parameters() if "mona" in n}, tmp_path / "best_model.pth")
    backbone = small_clip(form).float()
    model = ht.HTCLIP.from_checkpoint(tmp_path / "best_model.pth", backbone=backbone, task="contrastive").eval()
    images = torch.rand(2, 3, IMAGE, IMAGE)
    expected = F.normalize(published.encode_image(images), dim=-1)
    assert model.config.normalization == "published"
    with pytest.raises(InputError, match="was tuned with the normalization published, and would give other embeddings"):
        ht.HTCLIP.from_checkpoint(
            tmp_path / "best_model.pth", backbone=small_clip(form).float(), task="contrastive", normalization="clip"
        )
    folded = ht.fold(model)
    for got in (model(images), folded(images)):
        assert (got - expected).abs().max() < 1e-5
    export_onnx(folded, tmp_path / "model.onnx", channels=3)
    manifest = read_manifest(tmp_path / "model.json")
    assert (manifest.pixel_mean, manifest.pixel_std) == ((0.0,) * 3, (1.0,) * 3)


def test_normalization(tmp_path: Path) -> None:
    place = f"local-dir:{clip_folder(tmp_path / 'clip')}"
    for normalization in ("clip", "published"):
        model = ht.HTCLIP(place, task="contrastive", bottleneck=8, normalization=normalization).eval()
        path = tmp_path / f"{normalization}.safetensors"
        model.save(path)
        again = ht.HTCLIP.from_checkpoint(path).eval()
        images = torch.rand(2, 3, IMAGE, IMAGE)
        with torch.no_grad():
            assert again.config == model.config and torch.equal(again(images), model(images))
        assert bool((again.pixel_mean == 0).all()) == (normalization == "published")
    with pytest.raises(InputError, match="was tuned with the normalization published, and would give other embeddings"):
        ht.HTCLIP.from_checkpoint(path, normalization="clip")
    with pytest.raises(ValueError, match="normalization for segmentation must be published, got 'clip'"):
        ht.HTCLIP(small_clip(), normalization="clip")
    # A file from before there was a choice has the normalization of CLIP.
    with safe_open(tmp_path / "clip.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["ht_kernels"])
    del header["config"]["normalization"]
    save_file(tensors, tmp_path / "old.safetensors", {"ht_kernels": json.dumps(header)})
    assert ht.HTCLIP.from_checkpoint(tmp_path / "old.safetensors").config.normalization == "clip"


def test_adapters_are_not_fed_with_another_normalization(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place, start = f"local-dir:{clip_folder(tmp_path / 'clip')}", tmp_path / "clip.safetensors"
    ht.HTCLIP(place, task="contrastive", bottleneck=8).save(start)
    torch.manual_seed(5)
    dense = ht.HTCLIP(place, reduce_dim=16, feature_layers=(1, 2), bottleneck=8)
    dense.save(tmp_path / "dense.safetensors")
    data = make_layout(tmp_path / "data")
    words = ["train", str(data), "--dataset", "BUSI", "--output", str(tmp_path / "run"), "--keep-adapters"]
    for task, came, more in (
        ("segmentation", start, ["--feature-layers", "1", "2"]),
        ("contrastive", start, ["--normalization", "published"]),
        ("contrastive", tmp_path / "dense.safetensors", ["--normalization", "clip"]),
    ):
        if task == "contrastive":
            (data / "contrastive/BUSI").mkdir(parents=True, exist_ok=True)
            for split in ("train", "val"):
                (data / f"contrastive/BUSI/{split}.txt").write_text(f"{split}.png")
        assert main([*words, "--task", task, "--from", str(came), *more]) == 2
        assert "were trained with the normalization" in capsys.readouterr().err
    # Without a wish the adapters' own is taken, and new adapters may have another.
    kept = start_from(tmp_path / "dense.safetensors", "ht", keep_adapters=True, task="contrastive")
    assert kept.config.normalization == "published"
    assert start_from(tmp_path / "dense.safetensors", "ht", task="contrastive").config.normalization == "clip"
    new = start_from(start, "ht", normalization="published")
    assert new.config.normalization == "published" and (new.pixel_mean == 0).all()


def test_what_has_no_text_tower() -> None:
    tower = small_tower("open_clip")
    with pytest.raises(InputError, match="has no encode_text"):
        ht.HTCLIP(tower, task="contrastive")
    assert not any("mona" in name for name, _ in tower.named_parameters())
    with pytest.raises(InputError, match="timm/vit_tiny_patch16_224 has no text tower"):
        ht.HTCLIP("timm/vit_tiny_patch16_224", task="contrastive")
    dense = ht.HTCLIP(small_tower("open_clip"), reduce_dim=8, feature_layers=(1,))
    with pytest.raises(ValueError, match="goes with task='contrastive', and this model is for segm"):
        dense.encode_text(TEXTS)
    for wrong in ("one sentence", []):
        with pytest.raises(ValueError, match="one sentence or more in a sequence"):
            build().encode_text(wrong)
