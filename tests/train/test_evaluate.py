"""Evaluation: figures that are known beforehand, and the report."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.layout import make_layout
from helpers.small_models import small_model
from helpers.small_towers import IMAGE
from ht_kernels.cli import main
from ht_kernels.train import Examples, calibrate, pictures
from ht_kernels.train import evaluate as evaluation
from ht_kernels.train.evaluate import evaluate, evaluate_all, lines
from ht_kernels.train.metrics import counts, score, summarize
from ht_kernels.train.pictures import spearman
from ht_kernels.weights import PHANTOM


def test_figures_of_squares() -> None:
    truth = torch.zeros(3, 32, 32, dtype=torch.uint8)
    truth[:2, 8:16, 8:16] = 1
    guess = truth.clone()
    guess[1] = truth[1].roll(4, dims=1)
    data = Examples(torch.zeros(3, 1, 32, 32, dtype=torch.uint8), truth, ("same", "moved", "none"), {})
    rows = score(data, range(3), guess, 2)
    assert rows[0]["dice"] == 1 and rows[0]["hd95"] == 0
    assert rows[1]["dice"] == pytest.approx(0.5) and rows[1]["iou"] == pytest.approx(1 / 3) and rows[1]["hd95"] == 4
    summary = summarize(rows)
    assert summary["dice"] == pytest.approx(0.75) and summary["dice_std"] == pytest.approx(0.25)


def two_classes() -> tuple[Examples, torch.Tensor]:
    """Images of 24 x 32 pixels, whose diagonal is 40, with masks of two foreground classes, and a prediction."""
    names = ("second class missed", "nothing found", "wrong class", "rightly nothing", "false alarm")
    truth = torch.zeros(5, 24, 32, dtype=torch.uint8)
    truth[:3, 8:16, 8:16] = 1
    truth[0, 20:22, 20:30] = 2
    guess = torch.zeros_like(truth)
    guess[0, 8:16, 12:20] = 1
    guess[2, 8:16, 8:16] = guess[4, 2:4, 2:4] = 2
    return Examples(torch.zeros(5, 1, 24, 32, dtype=torch.uint8), truth, names, {}), guess


@pytest.mark.parametrize(("count", "title"), [(2, "2 images"), (13, "The worst, the middle and the best")])
def test_the_title_of_pictures_counts_them(
    count: int, title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(pictures, "_save", lambda figure, path: drawn.append(figure))
    truth = torch.zeros(count, IMAGE, IMAGE, dtype=torch.uint8)
    truth[:, 8:16, 8:16] = 1
    names = tuple(map(str, range(count)))
    evaluate(small_model(num_classes=2).float(), Examples(truth[:, None] * 255, truth, names, {}), tmp_path / "out", "")
    masks = drawn[0]
    assert masks.get_suptitle() == f"{title}: truth orange, prediction blue"
    assert len({axes.get_title() for axes in masks.axes}) == min(count, 12)


def test_each_class_that_was_missed_counts_as_the_diagonal() -> None:
    """Rows average over the classes in the truth; a class found elsewhere, or another class, is no hit."""
    data, guess = two_classes()
    rows = score(data, range(5), guess, 3)
    assert [(row["lesions"], row["missed"], row["predicted"]) for row in rows] == [
        (2, 1, True),
        (1, 1, False),
        (1, 1, True),
        (0, 0, False),
        (0, 0, True),
    ]
    one, missed, wrong, *without = rows
    assert one["dice"] == pytest.approx(0.25) and one["iou"] == pytest.approx(1 / 6) and one["hd95"] == 4
    assert one["hd95_all"] == pytest.approx(22) and one["asd_all"] == pytest.approx((one["asd"] + 40) / 2)
    for row in (missed, wrong):
        assert row["dice"] == row["iou"] == 0 and row["hd95_all"] == row["asd_all"] == pytest.approx(40)
        assert np.isnan([row["hd95"], row["asd"]]).all()
    names = ("dice", "iou", "hd95", "hd95_all", "asd", "asd_all")
    assert all(np.isnan([row[name] for name in names]).all() for row in without)
    summary = summarize(rows)
    assert summary["hd95"] == 4 and summary["hd95_all"] == pytest.approx((22 + 40 + 40) / 3)
    assert summary["dice"] == pytest.approx(0.25 / 3) and summary["asd_all"] > summary["asd"]
    assert counts(rows) == {"lesions": 4, "missed": 3, "without_lesion": 2, "false_alarms": 1}
    assert "hd95_all" not in summarize(score(data, range(5), guess, 3, surfaces=False))


def test_missing_a_lesion_is_worse_than_finding_it_in_the_farthest_corner() -> None:
    data, guess = two_classes()
    truth, far = torch.zeros_like(guess[:2]), torch.zeros_like(guess[:2])
    truth[:, -1, -1] = far[0, -1, -1] = 1
    masks = Examples(data.images[:2], truth, ("found", "not"), {})
    nothing = summarize(score(masks, range(2), far, 2))
    far[1, 0, 0] = 1
    corner = summarize(score(masks, range(2), far, 2))
    assert nothing["hd95"] < corner["hd95"] and nothing["asd"] < corner["asd"]  # as published
    assert nothing["hd95_all"] > corner["hd95_all"] and nothing["asd_all"] > corner["asd_all"]


def test_the_report_has_both_conventions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 6 squares one is missed; of 2 images without a lesion one has a false alarm; a second set has no lesion."""
    model, data = small_model("timm", "segmentation", num_classes=2), squares(8)
    data.targets[6:] = 0
    guess = data.targets.clone()
    guess[0], guess[7, :4, :4] = 0, 1
    signals = [{"confidence": 0.5}] * 8
    monkeypatch.setattr(evaluation, "predict_with_signals", lambda _, x, *__: (guess[-len(x) :], signals[: len(x)]))
    results = evaluate(model, data, tmp_path / "one", "a title")
    diagonal = IMAGE * 2**0.5
    assert json.loads((tmp_path / "one/results.json").read_text()) == results | {"model": json_of(results["model"])}
    assert {name: results[name] for name in ("images", "lesions", "missed", "without_lesion", "false_alarms")} == {
        "images": 8,
        "lesions": 6,
        "missed": 1,
        "without_lesion": 2,
        "false_alarms": 1,
    }
    table = lines(results)
    assert "| HD95, found | 0.0000 | 0.0000 |" in table and f"| HD95, all | {diagonal / 6:.4f} | " in "\n".join(table)
    assert "| nothing found | 1 of 6 lesions | |" in table and "| false alarms | 1 of 2 images | |" in table
    assert f"as the image's diagonal, {diagonal:.1f}; their Dice and IoU are 0. Images without a lesion" in table[-1]
    assert "\n".join(table) in (tmp_path / "one/report.md").read_text()
    with (tmp_path / "one/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["hd95"], rows[0]["missed"]) == ("nan", "1") and float(rows[0]["hd95_all"]) == pytest.approx(
        diagonal
    )
    assert (rows[7]["dice"], rows[7]["predicted"], rows[7]["lesions"]) == ("nan", "True", "0")

    empty = Examples(data.images[6:], data.targets[6:], data.names[6:], {})
    both = {"some": (data, None), "none": (empty, None)}
    evaluate_all(model, both, tmp_path / "all", "a title")
    report = (tmp_path / "all/report.md").read_text()
    assert (
        "| | images | Dice | IoU | HD95, found | HD95, all | ASD, found | ASD, all | nothing found | false alarms |"
        in report
    )
    assert "| none | 2 |" + " - |" * 6 + " 0 of 0 lesions | 1 of 2 images |" in report and table[-1] in report
    with (tmp_path / "all/results.csv").open() as file:
        assert [(row["missed"], row["false_alarms"]) for row in csv.DictReader(file)] == [("1", "1"), ("0", "1")]


def json_of(value: Any) -> Any:
    return json.loads(json.dumps(value))


def test_figures_of_labels() -> None:
    rows = [
        {"name": "", "label": label, "probabilities": [1 - p, p]}
        for label, p in ((1, 0.9), (1, 0.4), (0, 0.6), (0, 0.1))
    ]
    assert summarize(rows) == pytest.approx({"accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5, "auc": 0.75})


def test_the_area_below_a_roc_is_that_of_the_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where images have equal probabilities; the legend has it, and the confusion matrix the counts."""
    generator = np.random.default_rng(0)
    labels, scores = generator.integers(0, 2, 40), generator.integers(0, 6, 40) / 5
    rows = [{"label": int(label), "probabilities": [1 - p, p]} for label, p in zip(labels, scores, strict=True)]
    alarms, hits = pictures.roc(labels == 1, scores)
    assert (alarms[0], hits[0], alarms[-1], hits[-1]) == (0, 0, 1, 1)
    area = ((hits[1:] + hits[:-1]) / 2 * np.diff(alarms)).sum()
    assert area == pytest.approx(summarize(rows)["auc"], abs=1e-6)
    drawn: list[Any] = []
    monkeypatch.setattr(pictures, "_save", lambda figure, path: drawn.append(figure))
    pictures.draw_roc(tmp_path / "roc.png", rows, ("benign", "malignant"))
    pictures.draw_confusion(tmp_path / "confusion.png", rows, ("benign", "malignant"))
    curve, matrix = (figure.axes[0] for figure in drawn)
    assert f"malignant: AUC {area:.3f}" in [text.get_text() for text in curve.get_legend().get_texts()]
    assert curve.get_title() == "ROC of 40 images\nmalignant against benign"
    expected = [[int(((labels == i) & ((scores > 0.5) == j)).sum()) for j in (0, 1)] for i in (0, 1)]
    assert [text.get_text() for text in matrix.texts] == [str(count) for row in expected for count in row]
    assert [text.get_text() for text in matrix.get_yticklabels()] == ["benign", "malignant"]
    pictures.draw_roc(tmp_path / "roc.png", [{"label": 2, "probabilities": [0.2, 0.3, 0.5]}], ("a", "b", "c"))
    legend = [text.get_text() for text in drawn[-1].axes[0].get_legend().get_texts()]
    assert legend[1:] == [f"{name}: no AUC, as one of the two never occurs" for name in "abc"]


def test_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_layout(tmp_path / "data")
    assert main(["evaluate", str(PHANTOM), str(root), "--dataset", "BUSI", "--output", str(tmp_path / "out")]) == 0
    assert "| Dice |" in capsys.readouterr().out
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["images"] == 3 and 0 <= results["summary"]["dice"] <= 1
    assert "unfamiliar" not in results["summary"]  # these weights cannot tell
    assert "confidence" in (tmp_path / "out/results.csv").read_text().splitlines()[0].split(",")
    assert "![overlays.png]" in (tmp_path / "out/report.md").read_text()
    assert len((tmp_path / "out/results.csv").read_text().splitlines()) == 4
    assert main(["evaluate", str(PHANTOM), "--output", str(tmp_path / "out")]) == 2
    assert "no data was named" in capsys.readouterr().err


def squares(count: int) -> Examples:
    """Noise, with a bright square of a random place and brightness as the lesion."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 80, (count, 1, IMAGE, IMAGE), dtype=torch.uint8, generator=generator)
    masks = torch.zeros(count, IMAGE, IMAGE, dtype=torch.uint8)
    for image, mask in zip(images, masks, strict=True):
        y, x, level = (int(torch.randint(0, 32, (), generator=generator)) for _ in range(3))
        image[0, y : y + 24, x : x + 24] += 4 * level
        mask[y : y + 24, x : x + 24] = 1
    return Examples(images, masks, tuple(map(str, range(count))), {})


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_a_calibrated_model_tells_what_is_unfamiliar(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, examples = small_model("timm", task).float(), squares(30)
    if task == "classification":
        examples = Examples(examples.images, torch.arange(30) % 3, examples.names, {})
    calibrate(model, examples, examples, 16, "cpu")
    examples.images[:3] = 255
    passes = []
    features = type(model).features
    monkeypatch.setattr(type(model), "features", lambda self, x: (passes.append(len(x)), features(self, x))[1])
    results = evaluate(model, examples, tmp_path / "out", "a title")
    assert sum(passes) == 30  # one run of the tower for each image
    with (tmp_path / "out/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    with torch.no_grad():
        distances = model.with_distance(examples.images / 255)[1]
    assert [float(row["distance"]) for row in rows] == pytest.approx(distances.tolist(), rel=1e-3)
    assert [row["percentile"] for row in rows[:3]] == ["100.0"] * 3
    share = float((distances > model.familiarity.limit).float().mean())
    assert results["summary"]["unfamiliar"] == pytest.approx(share) and share >= 0.1
    report = (tmp_path / "out/report.md").read_text()
    assert f"| share of unfamiliar images | {share:.4f} |" in report
    scatter = task == "segmentation"
    assert ("confidence" in rows[0]) == ("![confidence.png]" in report) == scatter
    assert (tmp_path / "out/confidence.png").exists() == scatter


def test_spearman() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(x, np.exp(x)) == pytest.approx(1) and spearman(x, -(x**3)) == pytest.approx(-1)
    assert spearman(x, np.array([1.0, 3.0, 2.0, 4.0])) == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert spearman(x, np.array([1.0, 1.0, 2.0, 2.0])) == pytest.approx(0.8944272)  # equal ranks: 2 / sqrt(5)
    assert np.isnan(spearman(x, np.ones(4)))
