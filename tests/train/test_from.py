"""Starting from a checkpoint: what is taken, what is new, and that it is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import ht_kernels as ht
from helpers.clip_folder import clip_folder
from helpers.layout import make_layout
from helpers.small_towers import IMAGE
from ht_kernels.cli import main
from ht_kernels.clip.published_checkpoint import to_published
from ht_kernels.train import start_from

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and a checkpoint with hybrid adapters that are not as new ones are."""
    root = tmp_path_factory.mktemp("from")
    make_layout(root / "data")
    place = f"local-dir:{clip_folder(root / 'clip')}"
    torch.manual_seed(1)
    options = {"class_names": ("background", "lesion"), "feature_layers": (0, 1), "reduce_dim": 16, "adapter_layers": 2}
    model = ht.HTCLIP(place, bottleneck=8, **options)
    model.save(root / "first.safetensors")
    return root


def start(trained: Path, output: Path, *more: str) -> list[str]:
    where = [str(trained / "data"), "--dataset", "BUSI", "--output", str(output), "--epochs", "1", "--batch", "4"]
    return ["train", "--task", "segmentation", *where, "--from", str(trained / "first.safetensors"), *more]


def moved(trained: Path, output: Path) -> float | None:
    """How far a weight of an adapter went in one step of training with a learning rate of almost nothing."""
    name = "clip_model.visual.transformer.resblocks.0.mona.clip_mona.project1.weight"
    before, after = load_file(trained / "first.safetensors"), load_file(output / "best.safetensors")
    return float((before[name] - after[name]).abs().max()) if name in after else None


STILL = ["--learning-rate", "1e-20"]
SAID = {
    (): ("its tower, adapters and heads", True),
    ("--method", "all"): ("its tower, adapters and heads", True),
    ("--variant", "hybrid"): ("its tower, adapters and heads", True),
    ("--new-adapters",): ("its tower and heads; new adapters; those of FILE are left out", False),
    ("--variant", "noise_aware"): ("its tower and heads; new adapters; those of FILE are left out", False),
    ("--spectral", "full"): ("its tower and heads; new adapters; those of FILE are left out", False),
    ("--start", "published"): ("its tower and heads; new adapters; those of FILE are left out", False),
    ("--method", "heads"): ("its tower and heads; its adapters are left out", None),
    ("--method", "heads", "--keep-adapters"): ("its tower, adapters and heads", True),
    ("--reduce-dim", "8"): ("its tower and adapters; new heads", True),
    ("--feature-layers", "1", "3"): ("its tower and adapters; new heads; no adapters behind the blocks 2, 3", True),
}


@pytest.mark.parametrize("more", SAID, ids=" ".join)
def test_what_is_kept_is_said(
    more: tuple[str, ...], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, kept = SAID[more]
    assert main(start(trained, tmp_path / "out", *STILL, *more)) == 0
    line = f"starts from {trained / 'first.safetensors'}: {words}".replace("FILE", str(trained / "first.safetensors"))
    assert line in capsys.readouterr().out.splitlines()
    distance = moved(trained, tmp_path / "out")
    assert (None if distance is None else distance < 1e-6) == kept


def test_a_training_from_a_checkpoint_goes_on(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(start(trained, tmp_path / "out")) == 0
    assert main([*start(trained, tmp_path / "out"), "--epochs", "2"]) == 0
    assert "resumed after epoch 1" in capsys.readouterr().out
    assert main([*start(trained, tmp_path / "out"), "--epochs", "3", "--new-adapters"]) == 2
    assert "what the model takes from the checkpoint of --from changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--keep-adapters", "--new-adapters"], "--keep-adapters and --new-adapters were both given"),
        (["--method", "lora", "--new-adapters"], "--new-adapters is for --method ht or all"),
        (["--keep-adapters", "--start", "identity"], "--start identity is for new adapters"),
    ],
)
def test_what_contradicts_itself(
    more: list[str], words: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(start(trained, tmp_path / "out", *more)) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_new_adapters_are_in_place_of_some(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = [str(trained / "data"), "--dataset", "BUSI", "--output", str(tmp_path / "out"), "--new-adapters"]
    assert main(["train", "--task", "segmentation", *where]) == 2
    assert "--new-adapters is in place of those of a checkpoint: name it with --from" in capsys.readouterr().err


def test_a_filter_that_is_bound_to_its_grid_names_the_way_out(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ht.HTCLIP.from_checkpoint(trained / "first.safetensors").to_spectral("full")
    model.save(tmp_path / "full.safetensors")
    more = ["--from", str(tmp_path / "full.safetensors"), "--image-size", "96"]
    assert main(start(trained, tmp_path / "out", *more)) == 2
    assert "or start with new adapters, --new-adapters" in capsys.readouterr().err
    assert main(start(trained, tmp_path / "out", "--image-size", "100")) == 2
    said = capsys.readouterr().err
    assert "do not divide into patches" in said and "--new-adapters" not in said
    assert main(start(trained, tmp_path / "out", *more, "--new-adapters")) == 0


def test_adapters_of_a_text_model_are_not_dropped(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their pixels are normalized otherwise, so they cannot be kept, and the user says what to do."""
    ht.HTCLIP(f"local-dir:{trained / 'clip'}", task="contrastive", bottleneck=8).save(tmp_path / "tuned.safetensors")
    more = ["--from", str(tmp_path / "tuned.safetensors"), "--feature-layers", "0", "1"]
    assert main(start(trained, tmp_path / "out", *more)) == 2
    said = capsys.readouterr().err
    assert "were trained with the normalization clip" in said and "--new-adapters" in said
    assert main(start(trained, tmp_path / "out", *more, "--new-adapters")) == 0


def test_a_file_of_adapters_alone_has_no_heads(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "tower.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), weights)
    tower = ["--backbone", "timm/vit_tiny_patch16_224", "--pretrained", str(weights)]
    model = ht.HTCLIP(tower[1], str(weights), image_size=64, reduce_dim=16, bottleneck=8)
    torch.save(to_published(model)["mona"], tmp_path / "mona.pth")
    more = ["--from", str(tmp_path / "mona.pth"), *tower, "--image-size", "64", "--reduce-dim", "16"]
    assert main(start(trained, tmp_path / "out", *more)) == 0
    assert f"starts from {tmp_path / 'mona.pth'}: its tower and adapters; new heads\n" in capsys.readouterr().out


def test_in_python_new_adapters_are_the_default(trained: Path) -> None:
    said: list[str] = []
    for keep in (False, True, None):
        start_from(trained / "first.safetensors", "ht", keep, say=said.append, image_size=IMAGE)
    assert ["new adapters" in line for line in said] == [True, False, False]
