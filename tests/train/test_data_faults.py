"""What is wrong with data or with a training is said, on stderr and in the log."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

import ht_kernels as ht
from helpers.layout import disc, make_layout, picture, save
from helpers.small_towers import IMAGE
from helpers.training import SHORT, build, examples, train
from ht_kernels.cli import main
from ht_kernels.data import ClassificationDataset, SegmentationDataset
from ht_kernels.train import Recipe, Trainer, read_examples
from ht_kernels.train.examples import look_alikes
from ht_kernels.train.trained_on import remark
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


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_only_images_that_may_be_the_same_are_decoded(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the test split those in the size of training images, be it on their side, and without masks."""
    root = make_layout(tmp_path / "data")
    trained = examples(root, "train", task)
    save(root / "all/images/BUSI_7.png", picture(7, (40, 53)))
    save(root / "all/images/BUSI_8.png", picture(8, (52, 40)))
    for mask in (root / "all/masks").iterdir():
        mask.unlink()
    kind = SegmentationDataset if task == "segmentation" else ClassificationDataset
    decoded, image = [], kind.image
    monkeypatch.setattr(kind, "image", lambda self, i: decoded.append(self.names[i]) or image(self, i))
    found = dict(look_alikes(kind(root, "BUSI", "test", IMAGE), trained))
    assert decoded == ["BUSI_8.png", "BUSI_9.png"] == list(found)
    (root / "all/images/BUSI_9.png").write_bytes(b"none")
    assert list(look_alikes(kind(root, "BUSI", "test", IMAGE), trained)) and decoded[-1] == "BUSI_9.png"
    (root / "all/images/BUSI_0.png").write_bytes(b"of no known size, such as a DICOM file")
    assert len(list(look_alikes(kind(root, "BUSI", "test", IMAGE), trained))) == 2 and "BUSI_7.png" in decoded


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
    assert (
        "every pixel of every training or validation image" in first and "found nothing" not in first and last in second
    )


def evaluated(checkpoint: Path, root: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[str, str]:
    """What an evaluation says on stderr, and the title of its report."""
    capsys.readouterr()
    output = root.parent / f"evaluation {len(list(root.parent.iterdir()))}"
    arguments = [str(checkpoint), str(root), "--dataset", "BUSI", "--output", str(output), *more]
    assert main(["evaluate", *arguments]) == 0
    return capsys.readouterr().err, json.loads((output / "results.json").read_text())["title"]


def test_an_evaluation_knows_the_images_of_the_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, best = make_layout(tmp_path / "data"), tmp_path / "out/best.safetensors"
    assert main(command(root)) == 0
    moved = Path(shutil.copy(best, tmp_path / "moved.safetensors"))
    for checkpoint in (best, moved):
        for split, words in (
            ("train", "the model was trained on these 5 images, so their scores do not measure what was learned"),
            ("val", "best epoch was chosen by these 2 images, so their scores are a little too good"),
            ("all", "trained on 5 of these 10 images, and its best epoch was chosen by 2 more, so the scores do not"),
        ):
            said, title = evaluated(checkpoint, root, capsys, "--split", split)
            assert words in said and words in title
        assert "warning" not in evaluated(checkpoint, root, capsys)[0]
    save(root / "all/images/BUSI_0.png", picture(77))
    save(root / "all/masks/BUSI_1.png", disc(77))
    assert "trained on 4 of these 5 images" in evaluated(best, root, capsys, "--split", "train")[0]
    test = root / "segmentation/BUSI/test.txt"
    test.write_text(f"{test.read_text()}\nBUSI_2.png\nBUSI_5.png\n")
    said, _ = evaluated(best, root, capsys)
    assert "trained on 1 of these 5 images, and its best epoch was chosen by 1 more" in said


def test_an_evaluation_knows_a_wrong_fold_and_a_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, best = make_layout(tmp_path / "data"), tmp_path / "out/best.safetensors"
    assert main([*command(root), "--fold", "0/3", "--ratio", "50"]) == 0
    assert "epoch was chosen by these" in evaluated(best, root, capsys, "--fold", "0/3")[0]
    trained = sum("trained on" in evaluated(best, root, capsys, "--fold", f"{fold}/3")[0] for fold in (1, 2))
    assert trained > 0
    said, _ = evaluated(best, root, capsys, "--split", "all")
    assert "trained on 2 of these 10 images, and its best epoch was chosen by 3 more" in said


def test_images_of_the_training_before_count_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that starts from another has learned from the images of both."""
    root, first, second = make_layout(tmp_path / "data"), tmp_path / "out/best.safetensors", tmp_path / "second"
    assert main(command(root)) == 0
    train = root / "segmentation/BUSI/train.txt"
    before = train.read_text()
    train.write_text("BUSI_0.png")
    assert main([*command(root), "--from", str(first), "--output", str(second)]) == 0
    train.write_text(before)
    assert "trained on these 5 images" in evaluated(second / "best.safetensors", root, capsys, "--split", "train")[0]


def test_a_network_without_a_tower_knows_its_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, best = make_layout(tmp_path / "data"), tmp_path / "out/best.safetensors"
    arguments = ["train", "--task", "segmentation", str(root), "--dataset", "BUSI", "--output", str(best.parent)]
    assert main([*arguments, "--method", "unet", "--image-size", "32", "--epochs", "1"]) == 0
    assert "trained on 5 of these 10 images" in evaluated(best, root, capsys, "--split", "all")[0]


def test_a_checkpoint_without_a_note_is_known_by_the_state_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Older versions noted nothing in a checkpoint."""
    root, best = make_layout(tmp_path / "data"), tmp_path / "out/best.safetensors"
    assert main(command(root)) == 0
    model = ht.HTCLIP.from_checkpoint(best)
    model.trained_on = None
    model.save(best)
    assert "trained on these 5 images" in evaluated(best, root, capsys, "--split", "train")[0]
    assert "warning" not in evaluated(best, root, capsys, "--split", "all")[0]


def test_an_exported_file_is_known_by_the_checkpoint_beside_it(tmp_path: Path) -> None:
    root = make_layout(tmp_path / "data")
    train(root, tmp_path / "out")
    (tmp_path / "out/model.onnx").write_bytes(b"\x08\x08")
    images = read_examples(SegmentationDataset(root, "BUSI", "all", IMAGE))
    assert "trained on 5 of these 10 images" in str(remark(tmp_path / "out/model.onnx", images))
