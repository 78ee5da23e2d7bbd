"""What is wrong with data or with a training is said, on stderr and in the log."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from helpers.layout import disc, make_layout, picture, save
from helpers.training import SHORT, build, examples
from ht_kernels.cli import main
from ht_kernels.train import Recipe, Trainer
from ht_kernels.weights import PHANTOM

pytestmark = pytest.mark.usefixtures("one_thread")


def command(root: Path, task: str = "segmentation", *more: str) -> list[str]:
    where = [str(root), "--dataset", "BUSI", "--output", str(root.parent / "out"), "--from", str(PHANTOM)]
    return ["train", "--task", task, *where, "--method", "heads", "--epochs", "1", "--batch", "4", *more]


def remarks(output: Path) -> list[str]:
    """What the log has beside numbers, by epoch."""
    with (output / "log.csv").open() as file:
        return [row.get("remarks") or "" for row in csv.DictReader(file)]


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("name", ["BUSI_1.png", "BUSI_1.PNG"])
def test_an_image_in_two_splits_is_refused(
    split: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_layout(tmp_path / "data")
    path = root / f"segmentation/BUSI/{split}.txt"
    path.write_text(f"{path.read_text()}\n{name}\n")
    assert main(command(root)) == 2
    said = capsys.readouterr().err
    assert f"names {name}, and so does {path}: an image that is trained on cannot measure" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("more", ["", "BUSI_7.png"])
def test_a_test_split_that_cannot_be_read_does_not_stop_a_training(more: str, tmp_path: Path) -> None:
    root = make_layout(tmp_path / "data")
    (root / "segmentation/BUSI/test.txt").write_text(more)
    (root / "all/images/BUSI_7.png").write_bytes(b"none")
    assert main(command(root)) == 0
    (root / "segmentation/BUSI/test.txt").unlink()
    assert main(command(root)) == 0


@pytest.mark.parametrize(("split", "other"), [("val", 6), ("test", 8)])
def test_an_image_under_two_names_is_said(
    split: str, other: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_layout(tmp_path / "data")
    shutil.copy(root / "all/images/BUSI_2.png", root / f"all/images/BUSI_{other}.png")
    assert main(command(root)) == 0
    words = f"images of the {split} split have the same pixels as images that are trained on: BUSI_{other}.png = BUSI_2"
    assert f"warning: {words}" in capsys.readouterr().err and words in remarks(tmp_path / "out")[0]


def test_sound_data_is_not_complained_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_layout(tmp_path / "data")
    assert main(command(root, "classification")) == 0
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(("ones", "found"), [((0, 6), "one image"), ((6,), "no image")])
def test_labels_without_training_images_are_said(
    ones: tuple[int, ...], found: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_layout(tmp_path / "data")
    rows = "".join(f"BUSI_{i}.png,{int(i in ones)}\n" for i in range(10))
    (root / "classification/BUSI/labels.csv").write_text(rows)
    assert main(command(root, "classification")) == 0
    words = f"the train split has {found} of the label 1 (malignant)"
    assert f"warning: {words}" in capsys.readouterr().err and words in remarks(tmp_path / "out")[0]


def test_a_training_that_found_nothing_says_so(tmp_path: Path) -> None:
    root = make_layout(tmp_path / "data")
    said: list[str] = []
    alarms: list[str] = []
    model = build("ht")
    with torch.no_grad():
        model.seg_head.bias[0] = 50.0
    recipe = Recipe(**SHORT | {"learning_rate": 1e-6})  # type: ignore[arg-type]
    data = examples(root, "train"), examples(root, "val")
    Trainer(model, recipe, *data, tmp_path / "out", said.append, alarms.append).run()
    last = alarms[-1]
    assert last.startswith("the model found nothing: no pixel of a lesion") and "--start identity" in last
    assert sum("found nothing" in alarm for alarm in alarms) == 1 and not any("nothing" in line for line in said)
    first, second = remarks(tmp_path / "out")
    assert "every pixel of every training image" in first and "found nothing" not in first and last in second


def test_an_evaluation_knows_the_images_of_the_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, best = make_layout(tmp_path / "data"), tmp_path / "out/best.safetensors"
    assert main(command(root)) == 0
    for split, words in (("train", "was trained on these images"), ("val", "best epoch was chosen by"), ("test", "")):
        capsys.readouterr()
        evaluate = ["evaluate", str(best), str(root), "--dataset", "BUSI", "--split", split, "--output"]
        assert main([*evaluate, str(tmp_path / split)]) == 0
        said, title = capsys.readouterr().err, json.loads((tmp_path / split / "results.json").read_text())["title"]
        assert (words in said and words in title) if words else "warning" not in said
    moved = str(shutil.copy(best, tmp_path / "moved.safetensors"))
    evaluate = ["evaluate", moved, str(root), "--dataset", "BUSI", "--split", "train", "--output"]
    assert main([*evaluate, str(tmp_path / "moved")]) == 0, "a file whose run is not known"
    save(root / "all/images/BUSI_0.png", picture(77))
    save(root / "all/masks/BUSI_0.png", disc(77))
    capsys.readouterr()
    evaluate = ["evaluate", str(best), str(root), "--dataset", "BUSI", "--split", "train", "--output"]
    assert main([*evaluate, str(tmp_path / "changed")]) == 0
    assert "trained on" not in capsys.readouterr().err
