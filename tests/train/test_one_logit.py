"""Models with a single logit: training, and figures that are known beforehand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import ht_kernels as ht
from helpers.layout import make_layout
from helpers.small_towers import IMAGE, small_tower
from ht_kernels.classes import classes_of
from ht_kernels.cli import main
from ht_kernels.errors import InputError
from ht_kernels.train import Examples, Recipe, Trainer, prepare
from ht_kernels.train.evaluate import evaluate

pytestmark = pytest.mark.usefixtures("one_thread")


def build(task: str) -> ht.HTCLIP:
    torch.manual_seed(0)
    tower = small_tower("timm").float()
    return ht.HTCLIP(tower, task=task, num_classes=1, reduce_dim=16, feature_layers=(1, 2), bottleneck=8)


def images(task: str, count: int = 8) -> Examples:
    """Noise with a bright left half in it or not: the mask is that half, the label whether it is there."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 120, (count, 1, IMAGE, IMAGE), dtype=torch.uint8, generator=generator)
    masks = torch.zeros(count, IMAGE, IMAGE, dtype=torch.uint8)
    masks[::2, :, : IMAGE // 2] = 1
    targets = masks if task == "segmentation" else masks.flatten(1).amax(1).long()
    return Examples(pixels + 120 * masks[:, None], targets, tuple(map(str, range(count))), {})


@pytest.mark.parametrize(("task", "score"), [("segmentation", "dice"), ("classification", "accuracy")])
def test_learns(task: str, score: str, tmp_path: Path) -> None:
    model, data = build(task), images(task)
    prepare(model, "all")
    recipe = Recipe(method="all", epochs=20, batch=4, learning_rate=3e-3, augment="none", validate_every=20)
    outcome = Trainer(model, recipe, data, data, tmp_path, say=lambda _: None).run()
    assert outcome.best > 0.95
    saved = ht.HTCLIP.from_checkpoint(tmp_path / "best.safetensors", backbone=small_tower("timm").float())
    results = evaluate(saved.eval(), data, tmp_path / "out", "one logit")
    assert results["summary"][score] == pytest.approx(outcome.best)
    assert json.loads((tmp_path / "out/results.json").read_text())["model"]["num_classes"] == 1


def test_dice_by_hand(tmp_path: Path) -> None:
    model, data = build("segmentation").eval(), images("segmentation", 2)
    with torch.no_grad():
        logits = model(data.images.float() / 255)
        model.seg_head[1].bias -= logits[0].median()
        guess = classes_of(model(data.images.float() / 255))[0].bool()
    truth = data.targets[0].bool()
    assert 0.4 < guess.float().mean() < 0.6
    expected = 2 * int((guess & truth).sum()) / int(guess.sum() + truth.sum())
    results = evaluate(model, data, tmp_path, "by hand")
    assert results["summary"]["dice"] == pytest.approx(expected) and 0 < expected < 1
    assert results["summary"]["iou"] == pytest.approx(int((guess & truth).sum()) / int((guess | truth).sum()))
    assert results["without_lesion"] == 1


def test_labels_by_hand(tmp_path: Path) -> None:
    model, data = build("classification").eval(), images("classification")
    data.targets[:] = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0])
    with torch.no_grad():
        model.cls_head[-1].bias -= model(data.images.float() / 255).quantile(0.5)
        logits = model(data.images.float() / 255)[:, 0]
    right = (logits > 0) == (data.targets == 1)
    pairs = logits[data.targets == 1][:, None] > logits[data.targets == 0]
    assert 0 < right.float().mean() < 1 and 0 < (logits > 0).float().mean() < 1
    results = evaluate(model, data, tmp_path, "by hand")
    assert results["summary"]["accuracy"] == pytest.approx(float(right.float().mean()))
    assert results["summary"]["auc"] == pytest.approx(float(pairs.float().mean()))
    assert (tmp_path / "roc.png").exists() and (tmp_path / "confusion.png").exists()


def test_classes_that_the_model_does_not_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data = build("segmentation"), images("segmentation")
    data.targets[0, 0, 0] = 2
    prepare(model, "heads")
    with pytest.raises(InputError, match="the data has class 2, the model has 2 classes"):
        Trainer(model, Recipe(method="heads"), data, data, tmp_path)
    root = make_layout(tmp_path / "data", "MINE")
    labels = root / "classification/MINE/labels.csv"
    labels.write_text(labels.read_text().replace(",1\n", ",0\n"))
    arguments = [str(root), "--dataset", "MINE", "--task", "classification", "--output", str(tmp_path / "out")]
    assert main(["train", *arguments, "--pretrained", "openai"]) == 2
    assert "every image of MINE has the label 0" in capsys.readouterr().err
