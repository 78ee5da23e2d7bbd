"""Cross-validation: folds without leaks, and their results in one table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers.layout import SPLITS, make_layout
from ht_kernels.cli import main
from ht_kernels.errors import InputError
from ht_kernels.train import Examples, Fold, Recipe, read_groups, take_fold
from ht_kernels.train.over_folds import summarize_folds


def made(first: int, count: int, labels: bool = False) -> Examples:
    """Images whose first pixel is their number; labels 0, 0, 1 in turn."""
    numbers = torch.arange(first, first + count)
    images = numbers.view(-1, 1, 1, 1).expand(-1, 1, 4, 4).to(torch.uint8)
    targets = (numbers % 3 == 2).long() if labels else images[:, 0]
    return Examples(images, targets, tuple(f"{number}.png" for number in numbers.tolist()), {})


def folds(count: int, seed: int = 0, groups: dict[str, str] | None = None, labels: bool = False) -> list:
    sets = made(0, 30, labels), made(30, 12, labels)
    return [take_fold(*sets, groups or {}, Fold(number, count), seed) for number in range(count)]


@pytest.mark.parametrize("count", [2, 5, 42])
@pytest.mark.parametrize("labels", [False, True])
def test_every_image_validates_once(count: int, labels: bool) -> None:
    names = []
    for train, val in folds(count, labels=labels):
        assert not set(train.names) & set(val.names) and len(train) + len(val) == 42
        for part in (train, val):
            for i, name in enumerate(part.names):
                number = int(name[:-4])
                assert int(part.images[i, 0, 0, 0]) == number
                assert int(part.targets[i].flatten()[0]) == (number % 3 == 2 if labels else number)
        names += val.names
        if not labels:
            assert abs(len(val) - 42 / count) < 1
        elif count < 42:
            assert abs(int(val.targets.sum()) - 14 / count) < 1 and abs(len(val) - 42 / count) < 2
    assert sorted(names) == sorted(f"{i}.png" for i in range(42))


def test_groups_stay_together() -> None:
    groups = {f"{i}.png": f"patient {i % 10}" for i in range(40)}  # images 40 and 41 are alone
    groups["0.png"] = "40.png"  # a group may be called as an image that is in none
    for train, val in folds(4, groups=groups):
        mine = [{groups.get(name, name) for name in part.names} for part in (train, val)]
        assert val.names and not (mine[0] & mine[1]) - {"40.png"}
    with pytest.raises(InputError, match=r"42 images of train and val are 13 groups .* too few for 14 folds"):
        folds(14, groups=groups)


def test_folds_depend_on_the_seed_alone() -> None:
    first, again, other = ([val.names for _, val in folds(5, seed)] for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("text", ["5/5", "0/1", "-1/5", "1", "a/b", "0/0", "1/2/3", "½/5"])
def test_folds_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match=r"--fold .* was given, expected K/N such as 0/5: "):
        Fold.parse(text)
    assert Fold.parse("4/5") == Fold(4, 5)


TINY = ["--backbone", "timm/vit_tiny_patch16_224", "--reduce-dim", "8", "--epochs", "1", "--image-size", "32"]


@pytest.mark.usefixtures("one_thread")
def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A fold is trained, validated on as evaluate --fold does, and never sees an image of test or a group apart."""
    data = make_layout(tmp_path / "data")
    count = SPLITS["train"] + SPLITS["val"]
    rows = "".join(f"BUSI_{i}.png,{'together' if i in (0, 6) else i}\n" for i in range(count))
    (data / "segmentation/BUSI/groups.csv").write_text(f"image,group\n{rows}")
    assert read_groups(data, "segmentation", "BUSI")["BUSI_6.png"] == "together"
    assert read_groups(data, "classification", "BUSI") == {}
    where = [str(data), "--dataset", "BUSI"]
    seen: list[str] = []
    for number in range(3):
        run = tmp_path / f"run-{number}"
        fold = ["--fold", f"{number}/3"]
        assert main(["train", "--task", "segmentation", *where, *TINY, *fold, "--output", str(run)]) == 0
        held_out = capsys.readouterr().out.split(" images to train on, ")
        assert main(["evaluate", str(run / "best.safetensors"), *where, *fold, "--output", str(run / "val")]) == 0
        lines = (run / "val/results.csv").read_text().splitlines()[1:]
        mine = [line.split(",")[0] for line in lines]
        assert held_out[0].endswith(str(count - len(mine))) and held_out[1].startswith(f"{len(mine)} to validate")
        assert ("BUSI_0.png" in mine) == ("BUSI_6.png" in mine)
        assert f"fold {number}/3" in (run / "val/report.md").read_text()
        trained, scored = (json.loads(json.dumps(each)) for each in (_last_dice(run), _dice(run / "val")))
        assert trained == pytest.approx(scored, abs=1e-4)
        seen += mine
    assert sorted(seen) == [f"BUSI_{i}.png" for i in range(count)]
    capsys.readouterr()
    folders = [str(tmp_path / f"run-{number}/val") for number in range(3)]
    assert main(["evaluate", "--folds", *folders, "--output", str(tmp_path / "folds")]) == 0
    assert "| standard deviation |" in capsys.readouterr().out
    assert (tmp_path / "folds/folds.csv").read_text().count("\n") == 6
    command = ["train", "--task", "segmentation", *where, *TINY, "--output", str(tmp_path / "run-0")]
    assert main([*command, "--fold", "1/3"]) == 2  # another fold does not go on where this one was
    assert "the training data changed" in capsys.readouterr().err


def _dice(folder: Path) -> float:
    return json.loads((folder / "results.json").read_text())["summary"]["dice"]


def _last_dice(run: Path) -> float:
    names, *_, last = (line.split(",") for line in (run / "log.csv").read_text().splitlines())
    return float(last[names.index("val_dice")])


def results(folder: Path, **summary: float | None) -> Path:
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"summary": summary}))
    return folder


def test_mean_and_standard_deviation(tmp_path: Path) -> None:
    values = 0.5, 0.6, 0.8
    folders = [results(tmp_path / f"{v}", dice=v, dice_std=0.1, hd95=None if v == 0.8 else 1.0) for v in values]
    rows, table = summarize_folds(folders)
    assert [row["dice"] for row in rows[:3]] == list(values) and "hd95" not in rows[0] and "dice_std" not in rows[0]
    assert rows[3]["dice"] == pytest.approx(1.9 / 3) and rows[4]["dice"] == pytest.approx((0.14 / 6) ** 0.5)
    assert table[0] == "| | Dice |" and table[-1] == "| standard deviation | 0.1528 |"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.pop(), r"--folds names 1 folder, expected 2 or more"),
        (lambda f: (f[0] / "results.json").unlink(), r"the results .*results.json cannot be read"),
        (lambda f: (f[0] / "results.json").write_text('{"datasets": {}}'), r"has no results of one data set"),
        (lambda f: (f[0] / "results.json").write_text("{"), r"has no results of one data set"),
        (lambda f: (f[0] / "results.json").write_text('{"summary": {"auc": 1}}'), r"have no score in common"),
    ],
)
def test_results_that_are_none(change: Callable[[list[Path]], object], message: str, tmp_path: Path) -> None:
    folders = [results(tmp_path / name, dice=0.5) for name in "ab"]
    change(folders)
    with pytest.raises(InputError, match=message):
        summarize_folds(folders)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--task", "segmentation", "--phantoms", "3", "--fold", "0/2"], "--fold divides images in files"),
        (
            ["train", "--task", "contrastive", "DATA", "--dataset", "X", "--fold", "0/2"],
            "--fold divides images in files",
        ),
        (["train", "--task", "segmentation", "DATA", "--dataset", "X", "--fold", "2/2"], "--fold 2/2 was given"),
        (["train", "--task", "segmentation"], "no data was named: give DATA and --dataset"),
        (["train", "--task", "segmentation"], "\n  DATA/segmentation/DATASET/train.txt, val.txt, test.txt"),
        (["train", "--task", "segmentation"], "ht-kernels prepare folder --images IMAGES --masks MASKS --output DATA"),
        (["evaluate", "x", "--folds", "a", "b"], "--folds stands for CHECKPOINT and DATA, and x came"),
        (["evaluate"], "no checkpoint was named: give CHECKPOINT, or the folders of evaluations"),
        (["evaluate", "phantom", "--phantoms", "2", "--fold", "0/2"], "--fold divides images in files"),
        (["evaluate", "phantom", "D", "--dataset", "X", "--split", "val", "--fold", "0/2"], "stands for --split"),
    ],
)
def test_options_that_do_not_go_together(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--output", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert Recipe.seed == Recipe().seed
