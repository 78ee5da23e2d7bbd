"""Towers of random weights: refused where they would be frozen or drawn again, and stored where a user wants one."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import ht_kernels as ht
from helpers.clip_folder import CONFIG, clip_folder
from helpers.layout import make_layout
from helpers.small_towers import IMAGE, small_tower
from helpers.training import examples
from ht_kernels.cli import main
from ht_kernels.errors import InputError
from ht_kernels.train import Recipe, Trainer, build, prepare, start_from
from ht_kernels.weights import PHANTOM

pytestmark = pytest.mark.usefixtures("one_thread")

TIMM = "timm/vit_tiny_patch16_224"
SMALL = {"image_size": IMAGE, "reduce_dim": 16, "feature_layers": (0, 1)}


@pytest.fixture
def small_open_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a small tower that open_clip knows, and has no weights of."""
    import open_clip

    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/small.json").write_text(json.dumps(CONFIG))
    monkeypatch.setattr("open_clip.factory._MODEL_CONFIG_PATHS", [])
    monkeypatch.setattr("open_clip.factory._MODEL_CONFIGS", {})
    open_clip.add_model_config(tmp_path / "configs")
    return "small"


def captions(root: Path) -> Path:
    """A data set of captions whose images are missing."""
    folder = root / "contrastive/BUSI"
    folder.mkdir(parents=True)
    for number, split in enumerate(("train", "val", "test")):
        (folder / f"{split}.txt").write_text(f"BUSI_{number}.png\n")
    (folder / "captions.csv").write_text("".join(f"BUSI_{number}.png,a lesion\n" for number in range(3)))
    return root


@pytest.mark.parametrize("method", ["ht", "heads", "lora", "last3"])
@pytest.mark.parametrize("tower", [[], ["--backbone", TIMM], ["--backbone", "RN50"]])
def test_training_does_not_freeze_a_random_tower(
    method: str, tower: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before images are read and a tower is made."""
    monkeypatch.setattr("ht_kernels.clip.htclip.load_backbone", lambda *_: pytest.fail("a tower was made"))
    monkeypatch.setattr("ht_kernels.train.examples.read_examples", lambda *_: pytest.fail("images were read"))
    where = [str(make_layout(tmp_path / "data")), "--dataset", "BUSI", "--output", str(tmp_path / "out")]
    assert main(["train", "--task", "segmentation", *where, "--method", method, *tower]) == 2
    said = capsys.readouterr().err
    assert all(way in said for way in ("--pretrained", "--from", "--method all (or full)")) and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_text_tower_is_never_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = [str(captions(tmp_path / "data")), "--dataset", "BUSI", "--output", str(tmp_path / "out")]
    assert main(["train", "--task", "contrastive", *where, "--method", "all"]) == 2
    assert "its text tower is never trained: name trained weights with --pretrained" in capsys.readouterr().err


def test_a_tower_that_is_trained_may_start_at_random(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file then gives the same figures every time."""
    root = make_layout(tmp_path / "data")
    where, out = [str(root), "--dataset", "BUSI"], tmp_path / "out"
    options = ["--backbone", TIMM, "--image-size", "64", "--epochs", "1", "--batch", "4", "--method", "full"]
    assert main(["train", "--task", "segmentation", *where, *options, "--output", str(out)]) == 0
    assert "The tower starts with random weights, so the checkpoint holds the whole tower." in capsys.readouterr().out
    found = []
    for name in ("a", "b"):
        evaluate = ["evaluate", str(out / "best.safetensors"), *where, "--split", "all"]
        assert main([*evaluate, "--output", str(tmp_path / name)]) == 0
        found.append(json.loads((tmp_path / name / "results.json").read_text())["summary"])
    assert json.dumps(found[0]) == json.dumps(found[1])


@pytest.mark.parametrize("method", ["ht", "heads", "lora", "last3"])
@pytest.mark.parametrize("kind", ["timm", "open_clip"])
def test_a_checkpoint_holds_a_random_tower(kind: str, method: str, small_open_clip: str, tmp_path: Path) -> None:
    root, layers = make_layout(tmp_path / "data"), (0, 2)
    name = TIMM if kind == "timm" else small_open_clip
    model = build(method, backbone=name, **SMALL | {"feature_layers": layers})
    prepare(model, method)
    said: list[str] = []
    recipe = Recipe(method=method, epochs=1, batch=4, validate_every=1, learning_rate=1e-3)
    data = examples(root, "train"), examples(root, "val")
    Trainer(model, recipe, *data, tmp_path / "out", said.append).run()
    assert "The tower starts with random weights, so the checkpoint holds the whole tower." in said
    images = torch.rand(2, 1, IMAGE, IMAGE)
    again = [ht.HTCLIP.from_checkpoint(tmp_path / "out/best.safetensors").eval() for _ in range(2)]
    with torch.no_grad():
        torch.testing.assert_close(again[0](images), model.eval()(images), atol=1e-5, rtol=1e-4)
        assert torch.equal(again[0](images), again[1](images))
    assert not again[0].draws_tower
    again[0].save(tmp_path / "copy.safetensors")
    assert torch.equal(ht.HTCLIP.from_checkpoint(tmp_path / "copy.safetensors").eval()(images), again[0](images))


def test_a_contrastive_checkpoint_holds_both_random_towers(small_open_clip: str, tmp_path: Path) -> None:
    model = ht.HTCLIP(small_open_clip, task="contrastive", bottleneck=8).eval()
    model.save(tmp_path / "model.safetensors")
    again = ht.HTCLIP.from_checkpoint(tmp_path / "model.safetensors").eval()
    images = torch.rand(2, 3, IMAGE, IMAGE)
    assert torch.equal(again(images), model(images))
    assert torch.equal(again.encode_text(["a cyst"]), model.encode_text(["a cyst"]))


def without(path: Path, output: Path, keep: str = "no tensor of the tower") -> Path:
    """The checkpoint as older versions wrote it: without the tower, except for names that contain ``keep``."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = {
        n: t for n, t in load_file(path).items() if not n.startswith("clip_model.") or ".mona." in n or keep in n
    }
    save_file(tensors, output, metadata)
    return output


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file whose tower was random and is lost."""
    ht.HTCLIP(TIMM, bottleneck=8, **SMALL).save(tmp_path / "whole.safetensors")
    return without(tmp_path / "whole.safetensors", tmp_path / "old.safetensors")


@pytest.mark.parametrize("command", ["evaluate", "stream", "export", "inspect", "convert", "train"])
def test_no_command_draws_a_tower_of_a_checkpoint(
    command: str, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = make_layout(tmp_path / "data"), ["--output", str(tmp_path / "out.onnx")]
    image = str(next((root / "all/images").iterdir()))
    words = {
        "evaluate": [str(old), str(root), "--dataset", "BUSI"],
        "stream": [image, "--checkpoint", str(old)],
        "export": [str(old), "--frames", image],
        "inspect": [str(old), "--frames", image],
        "convert": [str(old), "--to", "published"],
        "train": [str(root), "--dataset", "BUSI", "--task", "segmentation", "--from", str(old)],
    }
    assert main([command, *words[command], *out]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"{old} does not hold the weights of its vision tower, and {TIMM} alone has random weights: pass" in said
    assert not (tmp_path / "out.onnx").exists()


def test_ways_out_of_a_lost_tower(old: Path, tmp_path: Path) -> None:
    """Weights that are named, or a module; a part of the tower is not enough."""
    tower = timm.create_model("vit_tiny_patch16_224", img_size=IMAGE, num_classes=0)
    save_file(tower.state_dict(), tmp_path / "tower.safetensors")
    named = ht.HTCLIP.from_checkpoint(old, pretrained=str(tmp_path / "tower.safetensors")).eval()
    module = ht.HTCLIP.from_checkpoint(old, backbone=copy.deepcopy(tower)).eval()
    images = torch.rand(1, 1, IMAGE, IMAGE)
    assert torch.equal(named(images), module(images))
    with pytest.raises(InputError, match="alone has random weights"):
        ht.HTCLIP.from_checkpoint(old)
    part = without(tmp_path / "whole.safetensors", tmp_path / "part.safetensors", keep="blocks.1.")
    with pytest.raises(InputError, match="alone has random weights"):
        ht.HTCLIP.from_checkpoint(part)


def test_a_module_is_not_replaced_by_a_random_tower_of_its_name(tmp_path: Path) -> None:
    tower = timm.create_model("vit_tiny_patch16_224", img_size=IMAGE, num_classes=0)
    model = ht.HTCLIP(tower, bottleneck=8, reduce_dim=16, feature_layers=(0, 1)).eval()
    model.save(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="was saved from a model around a module"):
        ht.HTCLIP.from_checkpoint(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="alone has random weights"):
        ht.HTCLIP.from_checkpoint(tmp_path / "model.safetensors", backbone=TIMM)
    model.save(tmp_path / "whole.safetensors", tower=True)
    again = ht.HTCLIP.from_checkpoint(tmp_path / "whole.safetensors", backbone=TIMM).eval()
    images = torch.rand(1, 1, IMAGE, IMAGE)
    assert torch.equal(again(images), model(images))


@pytest.mark.parametrize("tower", ["timm", "open_clip", "openai"])
def test_a_published_file_is_not_given_a_random_tower(tower: str, tmp_path: Path) -> None:
    module = small_tower(tower)
    model = ht.HTCLIP(module, bottleneck=8, reduce_dim=16, feature_layers=(0, 1))
    mona = {name: tensor for name, tensor in model.state_dict().items() if ".mona." in name}
    torch.save(mona, tmp_path / "mona.pth")
    for name in ("ViT-B-16", TIMM):
        with pytest.raises(InputError, match=f"{name} alone has random weights: pass --pretrained"):
            ht.HTCLIP.from_checkpoint(tmp_path / "mona.pth", backbone=name)


def test_an_untuned_clip_model_of_random_weights_is_refused(
    small_open_clip: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = captions(tmp_path / "data")
    command = ["evaluate", "clip", str(root), "--dataset", "BUSI", "--retrieval", "--output", str(tmp_path / "out")]
    assert main([*command, "--backbone", small_open_clip]) == 2
    assert "the CLIP model small alone has random weights" in capsys.readouterr().err
    place = f"local-dir:{clip_folder(tmp_path / 'clip')}"
    assert main([*command, "--backbone", place]) == 2
    assert "BUSI_2.png" in capsys.readouterr().err  # which is no image


def test_an_export_of_a_file_with_its_tower_warns_of_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ht.HTCLIP(TIMM, bottleneck=8, **SMALL)
    model.save(tmp_path / "model.safetensors", tower=True)
    image = str(next((make_layout(tmp_path / "data") / "all/images").iterdir()))
    out = ["--output", str(tmp_path / "model.onnx"), "--frames", image]
    assert main(["export", str(tmp_path / "model.safetensors"), *out]) == 0
    assert "random" not in capsys.readouterr().err


def test_a_text_tower_that_no_checkpoint_holds_is_drawn(
    small_open_clip: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A segmentation model holds the vision tower alone."""
    model = build("all", backbone=small_open_clip, **SMALL | {"feature_layers": (0, 3)})
    model.save(tmp_path / "model.safetensors")
    assert not start_from(tmp_path / "model.safetensors", "ht", reduce_dim=8).draws_tower
    assert start_from(tmp_path / "model.safetensors", "ht", task="contrastive").draws_tower
    where = [str(captions(tmp_path / "data")), "--dataset", "BUSI", "--output", str(tmp_path / "out")]
    where.append("--new-adapters")
    assert main(["train", "--task", "contrastive", *where, "--from", str(tmp_path / "model.safetensors")]) == 2
    assert "holds no text tower, which would have random weights" in capsys.readouterr().err
    assert not start_from(PHANTOM, "ht").draws_tower
