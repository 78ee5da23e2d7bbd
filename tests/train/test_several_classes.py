"""Segmentation with several classes: training, evaluation, and what stops either."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ht_kernels as ht
from helpers.layout import disc, make_layout, save
from helpers.several_classes import NAMES, make_several, scene
from helpers.small_models import small_model
from helpers.small_towers import IMAGE, small_tower
from helpers.training import SHORT
from ht_kernels.class_colors import COLORS
from ht_kernels.cli import main
from ht_kernels.data import SegmentationDataset
from ht_kernels.train import AUGMENTATIONS, Examples, Recipe, Trainer, prepare, read_examples
from ht_kernels.train.augment import augment
from ht_kernels.train.evaluate import evaluate, lines
from ht_kernels.train.losses import loss_for
from ht_kernels.train.metrics import NAMES as NAMES_OF_SCORES
from ht_kernels.train.metrics import score, summarize_classes
from ht_kernels.weights import PHANTOM

CLASSES = ["--classes", ",".join(NAMES)]
MANY = ("background", *(f"class {i}" for i in range(1, 32)))


def command(root: Path, *more: str) -> list[str]:
    where = [str(root), "--dataset", "LEG", "--output", str(root.parent / "run"), "--from", str(PHANTOM)]
    return ["train", "--task", "segmentation", *where, "--image-size", "96", "--epochs", "1", *more]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set of three classes, ``data``, and a model trained on it in 8 epochs, ``run``."""
    folder = tmp_path_factory.mktemp("several classes")
    root = make_several(folder / "data", listed=False)
    more = ["--epochs", "8", "--average", "0.8", "--learning-rate", "3e-3"]
    with torch.random.fork_rng():
        assert main(command(root, *CLASSES, *more)) == 0
    return folder


def test_each_class_is_learned(trained: Path) -> None:
    """Without a model the Dice of a class is below 0.2: each covers less than a tenth of an image."""
    assert ht.HTCLIP.from_checkpoint(trained / "run/best.safetensors").config.class_names == NAMES
    with (trained / "run/log.csv").open() as file:
        rows = list(csv.DictReader(file))
    best = max(rows, key=lambda row: float(row["val_dice"]))
    both = [float(best[f"val_dice/{name}"]) for name in NAMES[1:]]
    assert min(both) > 0.7 and float(best["val_dice"]) == pytest.approx(np.mean(both))


def evaluated(trained: Path, output: Path, *more: str) -> int:
    where = [str(trained / "run/best.safetensors"), str(trained / "data"), "--dataset", "LEG"]
    return main(["evaluate", *where, "--output", str(output), *more])


def test_the_evaluation_names_classes(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also of a data set that does not name them: the model does."""
    assert evaluated(trained, tmp_path / "test") == 0
    said = capsys.readouterr().out
    results = json.loads((tmp_path / "test/results.json").read_text())
    alone = results["classes"]
    assert list(alone) == list(NAMES[1:])
    assert results["summary"]["dice"] == pytest.approx(np.mean([one["dice"] for one in alone.values()]))
    assert min(one["dice"] for one in alone.values()) > 0.7
    report = (tmp_path / "test/report.md").read_text()
    for text in (said, report):
        assert f"| vessel | {alone['vessel']['dice']:.4f} ± " in text and " | 0 of 8 | 0 of 0 images |" in text
    with (tmp_path / "test/results.csv").open() as file:
        assert float(next(csv.DictReader(file))["hd95/cyst"]) < 10
    with Image.open(tmp_path / "test/overlays.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    for color in COLORS[1:3]:
        assert (abs(pixels.astype(int) - color).max(-1) < 2).sum() > 100, "outlines and a patch of the legend"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("background\nvessel\ncyst", "LEG has the classes background, vessel, cyst, and the model the classes backg"),
        (
            "background\ncyst",
            "background, cyst, and the model the classes background, cyst, vessel",
        ),
        ("\n".join((*NAMES, "bone")), "vessel, bone, and the model the classes background, cyst, vessel. Their order"),
    ],
)
def test_a_data_set_of_other_classes_is_not_evaluated(
    names: str, words: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = trained / "data/segmentation/LEG/classes.txt"
    listed.write_text(names)
    try:
        assert evaluated(trained, tmp_path / "test") == 2
    finally:
        listed.unlink()
    assert words in capsys.readouterr().err and not (tmp_path / "test").exists()


def test_a_model_of_two_classes_is_not_evaluated_on_masks_of_more(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = [str(PHANTOM), str(trained / "data"), "--dataset", "LEG", "--output", str(tmp_path / "test")]
    assert main(["evaluate", *where]) == 2
    said = capsys.readouterr().err
    assert "the 8 masks of LEG have more than two values" in said and "0 in 8, 1 in 8, 2 in 8. If they" in said
    assert not (tmp_path / "test").exists()


def test_labels_of_other_classes_are_not_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_layout(tmp_path / "data")
    model = ht.HTCLIP(
        "timm/vit_tiny_patch16_224", task="classification", image_size=64, bottleneck=8, reduce_dim=16,
        feature_layers=(0, 1), num_classes=2, class_names=("benign", "malignant"),
    )  # fmt: skip
    model.save(tmp_path / "model.safetensors")
    where = [str(tmp_path / "model.safetensors"), str(root), "--dataset", "BUSI", "--output", str(tmp_path / "test")]
    assert main(["evaluate", *where]) == 0
    (root / "classification/BUSI/classes.txt").write_text("malignant\nbenign")
    assert main(["evaluate", *where[:-1], str(tmp_path / "other")]) == 2
    assert "BUSI has the classes malignant, benign, and the model the classes benign, m" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            [],
            "the 34 masks of LEG have more than two values, so they are not read as two classes. The values",
        ),
        ([], "0 in 34, 1 in 34, 2 in 34. If they are the numbers of classes, name all of these: with --classes backg"),
        (["--skip-bad"], "0 in 34, 1 in 34, 2 in 34"),
        (["--classes", "background,cyst"], "0 in 34, 1 in 34, 2 in 34"),
        (["--classes", "background"], "--classes names 1 class, expected 2 to 32, the background first"),
        (["--classes", "background,cyst,cyst"], "--classes names class 1 and class 2 cyst, expected another name"),
        (["--classes", "background,,cyst"], "--classes has an empty name for class 1"),
        (["--classes", ",".join(map(str, range(33)))], "--classes names 33 classes, expected 2 to 32"),
        (
            ["--task", "contrastive", *CLASSES],
            "--classes names the classes of masks or labels, and a contrastive model",
        ),
    ],
)
def test_training_is_refused(
    more: list[str], words: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command(trained / "data", "--output", str(tmp_path / "out")), *more]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_names_that_contradict_and_values_that_are_no_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_several(tmp_path / "data")
    assert main(command(root, "--classes", "background,vessel,cyst")) == 2
    assert "--classes names the classes background, vessel, cyst, and " in (said := capsys.readouterr().err)
    assert "classes.txt says background, cyst, vessel: leave one out" in said
    save(root / "all/masks/LEG_3.png", scene(3)[1] * 2)
    assert main(command(root)) == 2
    said = capsys.readouterr().err
    assert "LEG_3.png has the value 4, and the classes are 0 (background), 1 (cyst), 2 (vessel)" in said
    assert main(command(root, "--phantoms", "3")) == 2
    assert not (tmp_path / "run").exists()


def test_a_class_without_a_mask_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_several(tmp_path / "data", listed=False)
    assert main(command(root, "--classes", "background,cyst,vessel,bone,nerve", "--method", "heads")) == 0
    said = capsys.readouterr().out
    assert "no mask to train on has the class bone or nerve, so the model cannot learn it" in said
    assert "bone in no mask, nerve in no mask\n" in said


def test_two_classes_have_the_names_that_were_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And reports as before."""
    root = make_layout(tmp_path / "data", "LEG")
    assert main(command(root, "--classes", "background,nodule", "--method", "heads")) == 0
    assert "of each class" not in capsys.readouterr().out
    assert ht.HTCLIP.from_checkpoint(tmp_path / "run/best.safetensors").config.class_names == ("background", "nodule")
    for i in range(5):
        save(root / f"all/masks/LEG_{i}.png", disc(i) * np.uint8(1 + i % 2))
    assert main(command(root, "--output", str(tmp_path / "other"))) == 2
    assert "0 in 7, 1 in 3, 2 in 2, 255 in 2" in capsys.readouterr().err


def test_labels_have_the_names_that_were_given(tmp_path: Path) -> None:
    root = make_layout(tmp_path / "data", "LEG")
    for how in ("option", "file"):
        arguments = command(root, "--task", "classification", "--method", "heads", "--output", str(tmp_path / how))
        if how == "file":
            (root / "classification/LEG/classes.txt").write_text("calf\nthigh\nfoot")
        more = ["--classes", "calf,thigh,foot"] if how == "option" else []
        assert main([*arguments, *more]) == 0
        model = ht.HTCLIP.from_checkpoint(tmp_path / how / "best.safetensors")
        assert model.config.class_names == ("calf", "thigh", "foot")


def test_scores_of_a_class_are_those_of_its_mask_alone() -> None:
    truth = torch.zeros(3, 32, 32, dtype=torch.uint8)
    truth[0, 4:12, 4:12], truth[0, 20:28, 20:28], truth[1, 4:12, 4:12] = 1, 2, 1
    guess = truth.clone()
    guess[0, 20:28, 20:28] = 0
    guess[1, 4:12, 8:12] = 2
    data = Examples(torch.zeros(3, 1, 32, 32, dtype=torch.uint8), truth, ("a", "b", "c"), {})
    rows = score(data, range(3), guess, 3, names=NAMES)
    for number, name in enumerate(NAMES[1:], 1):
        alone = Examples(data.images, (truth == number).byte(), data.names, {})
        expected = score(alone, range(3), (guess == number).byte(), 2)
        for row, one in zip(rows, expected, strict=True):
            found = [row[f"{what}/{name}"] for what in NAMES_OF_SCORES]
            assert found == pytest.approx([one[what] for what in NAMES_OF_SCORES], nan_ok=True)
    summary = summarize_classes(rows, NAMES)
    counted = [[summary[n][w] for w in ("lesions", "missed", "without_lesion", "false_alarms")] for n in NAMES[1:]]
    assert counted == [[2, 0, 1, 0], [1, 1, 2, 1]]
    assert summary["cyst"]["dice"] == pytest.approx((1 + 2 / 3) / 2) and summary["vessel"]["dice"] == 0


def test_a_name_with_a_bar_stays_in_its_cell(tmp_path: Path) -> None:
    model = small_model(class_names=("background", "a|b", "c/d")).float()
    targets = torch.arange(2 * IMAGE * IMAGE).reshape(2, IMAGE, IMAGE).remainder(3).byte()
    data = Examples(torch.randint(0, 256, (2, 1, IMAGE, IMAGE), dtype=torch.uint8), targets, ("a", "b"), {})
    results = evaluate(model, data, tmp_path / "out", "Bars")
    assert list(results["classes"]) == ["a|b", "c/d"] and any(line.startswith("| a\\|b | ") for line in lines(results))


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_augmentation_makes_no_class_that_was_not_there(kind: str) -> None:
    import random

    image, _ = scene(0)
    mask = torch.tensor([0, 1, 30, 31], dtype=torch.uint8).repeat_interleave(16).expand(64, 64)
    for seed in range(20):
        _, moved = augment(torch.from_numpy(image)[None], mask, kind, random.Random(seed))
        assert moved is not None and set(moved.unique().tolist()) <= {0, 1, 30, 31}


def test_the_loss_is_dice_of_all_classes_and_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, masks = torch.randn(2, 5, 8, 8), torch.randint(0, 5, (2, 8, 8))
    p, truth = logits.softmax(1), torch.nn.functional.one_hot(masks, 5).movedim(-1, 1).float()
    overlap = 2 * (p * truth).sum((2, 3)) / (p.square() + truth.square()).sum((2, 3))
    expected = (1 - overlap).mean() + torch.nn.functional.cross_entropy(logits, masks)
    torch.testing.assert_close(loss_for("segmentation", 5)(logits, masks), expected)


def test_thirty_two_classes(tmp_path: Path) -> None:
    """Training, log, evaluation and pictures."""
    root = make_layout(tmp_path / "data", "MANY")
    for i in range(10):
        rows, columns = np.indices((40, 52))
        save(root / f"all/masks/MANY_{i}.png", ((rows // 5) * 4 + columns // 13).astype(np.uint8))
    sets = [SegmentationDataset(root, "MANY", split, IMAGE, MANY) for split in ("train", "val", "test")]
    train, val, test = map(read_examples, sets)
    assert int(train.targets.max()) == 31 and train.missing_classes(MANY) == []
    tower = small_tower("timm").float()
    model = ht.HTCLIP(
        tower, task="segmentation", num_classes=32, class_names=MANY, reduce_dim=16, feature_layers=(1, 2),
        bottleneck=8, adapter_layers=(),
    )  # fmt: skip
    prepare(model, "heads")
    recipe = replace(Recipe(method="heads"), **SHORT)
    said: list[str] = []
    Trainer(model, recipe, train, val, tmp_path / "run", say=said.append).run()
    assert all(len(line) < 300 for line in said)
    assert len((tmp_path / "run/log.csv").read_text().splitlines()[0].split("val_dice/")) == 32
    results = evaluate(model, test, tmp_path / "test", "Many")
    assert list(results["classes"]) == list(MANY[1:]) and results["lesions"] == 93
    with pytest.raises(ht.errors.InputError, match="the data has class 31, the model has 31 classes"):
        test.check_classes(31)
