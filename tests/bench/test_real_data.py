"""The comparison on real data, and the training benchmark: that they run, go on, and sum up right."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks import training
from benchmarks.real_data import beside_published, data, methods, pack, report, runs, statistics, times
from benchmarks.real_data.__main__ import main
from helpers.layout import make_layout
from ht_kernels.errors import InputError
from ht_kernels.train import Examples, Trainer
from ht_kernels.train.metrics import counts, score, summarize

pytestmark = pytest.mark.usefixtures("one_thread")


def result(method: str, seed: int, dice: dict[str, float | None], share: int = 100) -> dict[str, Any]:
    images = [
        {"name": name, "dice": d, "iou": None if d is None else d / 2, "hd95": 10 * d if d else None}
        for name, d in dice.items()
    ]
    setting = {"task": "segmentation", "backbone": "b", "image_size": 100, "epochs": 14, "precision": "no"}
    counts = {"train_images": 312, "val_images": 45, "removed": {"train": 7, "val": 2}, "trained_parameters": 1000}
    curve = [{"epoch": 1.0, "loss": 2.0, "val_dice": 0.1}, {"epoch": 2.0, "loss": 1.0}]
    facts = {
        "best_epoch": 1,
        "val_score": max(d or 0 for d in dice.values()),
        "seconds_per_epoch": 3.0,
        "commit": "c",
        "environment": {},
    }
    return {
        "method": method,
        "share": share,
        "seed": seed,
        "setting": setting,
        **counts,
        **facts,
        "curve": curve,
        "images": images,
    }


def labels(truth: list[int], chance: list[float]) -> dict[str, Any]:
    images = [
        {"name": str(i), "label": t, "probabilities": [1 - p, p]}
        for i, (t, p) in enumerate(zip(truth, chance, strict=True))
    ]
    return {"setting": {"task": "classification"}, "seed": 0, "images": images}


def test_both_conventions_of_distances() -> None:
    """An image in which nothing was found is left out, or counts as the diagonal; one without a lesion never counts."""
    figures = statistics.summary(result("heads", 0, {"a": 0.5, "b": 0.0, "c": 1.0, "normal": None}))
    assert figures["dice"] == pytest.approx(0.5) and (figures["missed"], figures["lesions"]) == (1, 3)
    assert figures["hd95"] == pytest.approx(7.5)
    assert figures["hd95_all"] == pytest.approx((5 + 10 + 100 * 2**0.5) / 3)


def test_both_conventions_are_those_of_the_metrics() -> None:
    """A row has them from the masks; the study, which reads runs that have no such columns, from the other figures."""
    truth = torch.zeros(3, 32, 32, dtype=torch.uint8)
    truth[:2, 8:16, 8:16] = 1
    guess = torch.zeros_like(truth)
    guess[0], guess[2] = truth[0].roll(4, dims=1), 1
    rows = score(Examples(truth[:, None], truth, ("moved", "missed", "false alarm"), {}), range(3), guess, 2)
    older = [{name: runs.plain(row[name]) for name in ("name", "dice", "iou", "hd95")} for row in rows]
    found = statistics.summary({"images": older, "setting": {"task": "segmentation", "image_size": 32}})
    expected = summarize(rows) | counts(rows)
    assert found == pytest.approx({name: expected[name] for name in found}) and found["missed"] == 1


def test_no_lesion_at_all() -> None:
    figures = statistics.summary(result("heads", 0, {"normal": None}))
    assert figures["lesions"] == figures["missed"] == 0 and np.isnan(figures["dice"]) and np.isnan(figures["hd95_all"])


def test_the_study_reads_the_runs_that_are_committed() -> None:
    """Their figures are those of the table that was committed with them."""
    for table in (Path(__file__).parents[2] / "benchmarks/results").glob("*/results.csv"):
        rows = {tuple(map(row.get, ("share", "method", "seed"))): row for row in csv.DictReader(table.open())}
        for file in table.parent.glob("runs/*.json"):
            found, row = json.loads(file.read_text()), rows[tuple(file.stem.split("-"))]
            figures = statistics.summary(found)
            for name in ("dice", "iou", "hd95_all", "missed"):
                assert figures[name] == pytest.approx(float(row[name])), (file, name)
            assert report.line(found).startswith(f"test Dice {float(row['dice']):.3f}, IoU ")


def test_the_calibration_error_of_ten_bins() -> None:
    figures = statistics.summary(labels([1, 0, 1, 1], [0.95, 0.05, 0.52, 0.58]))
    assert figures["ece"] == pytest.approx((0.05 + 0.05 + (2 - 0.52 - 0.58)) / 4)
    assert figures["brier"] == pytest.approx((0.05**2 + 0.05**2 + 0.48**2 + 0.42**2) / 4)
    assert statistics.reliability([labels([1, 0], [0.55, 0.52])]) == [(pytest.approx(0.535), 0.5, 2)]
    assert figures["auc"] == 1.0 and figures["accuracy"] == 1.0


def test_paired_differences_are_of_the_seeds_and_images_that_both_have() -> None:
    one = [result("heads", seed, {"a": 0.2 + seed / 5, "b": 0.4}) for seed in range(2)]
    scores: dict[str, float | None] = {"b": 0.3, "a": 0.1, "c": 0.9}
    assert statistics.paired(one, [result("lora", 0, scores)]) == pytest.approx((0.1, 0.1, 0.1))  # of seed 0 alone
    gap = statistics.paired(one, [result("lora", 2, scores)])
    assert gap.mean == pytest.approx((0.2 + 0.1) / 2) and (gap.low, gap.high) == pytest.approx((0.1, 0.2))
    drawn = np.random.default_rng(1).normal(0.1, 0.2, 200)
    low, high = statistics.interval(200, lambda i: drawn[i].mean(-1))
    wide = 1.96 * drawn.std() / 200**0.5
    assert (low, high) == pytest.approx((drawn.mean() - wide, drawn.mean() + wide), abs=0.005)


def test_areas_under_the_curve_are_those_of_monai_and_their_difference_is_paired() -> None:
    generator = np.random.default_rng(2)
    truth = generator.integers(0, 2, 60)
    good, poor = np.round(0.5 * truth + generator.random(60) / 2, 1), generator.random(60)
    one, other = (labels(truth.tolist(), chance.tolist()) for chance in (good, poor))
    expected = statistics.summary(one)["auc"] - statistics.summary(other)["auc"]
    gap = statistics.paired([one], [other])
    assert gap.mean == pytest.approx(expected) and gap.low < gap.mean < gap.high and gap.low > 0
    drawn = generator.integers(0, 60, 60)  # weights are the same as repeated images
    again = labels(truth[drawn].tolist(), good[drawn].tolist())
    weights = np.bincount(drawn, minlength=60)[None]
    assert statistics.areas(truth, good, weights)[0] == pytest.approx(statistics.summary(again)["auc"])
    assert np.isnan(statistics.areas(np.ones(2), np.ones(2), np.ones((1, 2)))).all()


def test_the_table_says_who_won_and_what_is_missing() -> None:
    names = [str(i) for i in range(20)]
    far, near = dict.fromkeys(names, 0.5), dict.fromkeys(names, 0.6)
    results = [result("heads", 0, far), result("heads", 1, near), result("hybrid_gain", 0, near)]
    text = "\n".join(report.table(results, 48, {"heads": {"published": 9.0, "ours": 3.0}}))
    assert text.startswith("3 of 48 runs are finished") and "7 images of the training split and 2 of the val" in text
    assert (
        "| heads alone | 1,000 | 2 | 0.550 ± 0.071 | 0.275 ± 0.035 | 5.5 ± 0.7 | 5.5 ± 0.7 | 0 of 40 | 9.0 | 3.0 |"
        in text
    )
    assert "| HD95, found | HD95, all | nothing found | s, published |" in text and "*found* leaves out lesions" in text
    assert (
        "HT wins: HT, hybrid (gain) is above all others in Dice, nearest to heads alone (+0.100" in text
        and "20 %" not in text
    )
    assert "| HT, hybrid (gain) | +0.100 | +0.100 to +0.100 | +0.100 | heads alone | +0.100 to +0.100 |" in text
    assert "| heads alone | - | - | -0.100 | HT, hybrid (gain) | -0.100 to -0.100 |" in text
    assert "14 passes over the training split." in text and "mixed precision" not in text
    results[1]["setting"]["precision"] = "bf16"
    mixed = "\n".join(report.table(results, 48, {}))
    assert "Trained in mixed precision, bf16: 1 of 3." in mixed
    unet = "\n".join(report.table([*results, result("unet", 0, far)], 48, {}))
    assert "14 passes over the training split, 4 times as many for UNet from scratch." in unet
    shares = "\n".join(report.table([*results, result("heads", 0, far, 20), result("heads", 0, far, 5)], 48, {}))
    assert "over the training split, 3 times as many over 20 % of it, 6 times as many over 5 % of it." in shares
    three = report.comparison([*results, result("lora", 0, dict.fromkeys(names, 0.3))])
    assert "| LoRA | -0.200 | -0.200 to -0.200 | -0.300 | HT, hybrid (gain) | -0.300 to -0.300 |" in three
    worse = [result("heads", 0, near), result("hybrid_gain", 0, far)]
    assert (
        "HT does not win: HT, hybrid (gain) is below heads alone (-0.100, 95 % interval -0.100 to -0.100)"
        in report.verdict(worse)
    )
    unlucky = result("lora", 0, {"a": 0.55, "b": 0.75}) | {"val_score": 0.1}  # the best rival, though not by validation
    leads = [result("heads", 0, {"a": 0.1, "b": 0.1}), unlucky, result("hybrid_gain", 0, {"a": 0.6, "b": 0.7})]
    assert "HT, hybrid (gain) is not surely above LoRA" in report.verdict(leads)
    mixed = [result("heads", 0, {"a": 0.5, "b": 0.6}), result("baseline", 0, {"a": 0.6, "b": 0.5})]
    assert "HT does not win for certain" in report.verdict(mixed)
    assert "Too few runs" in report.verdict(results[:2])


def test_validation_prefers_by_the_seeds_that_all_methods_have() -> None:
    """A method with one seed, whose images to train on are easy, is not preferred for that."""
    dice = {"a": 0.5, "b": 0.6}
    heads = [result("heads", seed, dice) for seed in range(2)]
    several = [result("baseline", seed, dice) | {"val_score": value} for seed, value in enumerate((0.8, 0.4))]
    one = result("freq_enhanced", 0, dice) | {"val_score": 0.7}
    assert "HT, baseline is not surely above heads alone" in report.verdict([*heads, *several, one])
    assert "HT, freq_enhanced is" in report.verdict([*heads, *several, one | {"val_score": 0.81}])


def test_ht_wins_only_if_it_is_ahead_of_every_other_method_for_certain() -> None:
    """One that is further behind on average may be ahead on so many images that the difference may be chance."""
    names = [str(i) for i in range(40)]
    varied = {name: 0.75 + 0.25 * (-1) ** i for i, name in enumerate(names)}
    heads, ours = result("heads", 0, dict.fromkeys(names, 0.78)), result("hybrid_gain", 0, dict.fromkeys(names, 0.8))
    assert "is above all others in Dice, nearest to heads alone" in report.verdict([heads, ours])
    said = report.verdict([heads, ours, result("lora", 0, varied)])
    assert "HT does not win for certain: in Dice, HT, hybrid (gain) is not surely above LoRA" in said
    full = result("full", 0, dict.fromkeys(names, 0.81))
    assert "HT does not win: HT, hybrid (gain) is below full tuning" in report.verdict([heads, ours, full])
    assert "is below full tuning" in report.verdict([heads, ours, full, result("lora", 0, varied)])


def test_the_report_counts_where_ht_was_below_heads_alone() -> None:
    """Each seed is compared with its own, and the first validation does not count."""
    results = [result(method, seed, {"a": 0.5}) for seed in range(2) for method in ("heads", "hybrid_gain")]
    for found, scores in zip(
        results, ([0.9, 0.5, 0.5], [0.1, 0.5, 0.6], [0.2, 0.7, 0.6], [0.3, 0.8, 0.5]), strict=True
    ):
        found["curve"] = [{"epoch": float(i + 1), "loss": 1.0, "val_dice": s} for i, s in enumerate(scores)]
    assert report.along_the_way(results).endswith("of the same seed: HT, hybrid (gain) in 3 of 4.")
    assert report.along_the_way(results[:1]) == ""


def test_shares_get_more_passes_and_fewer_images() -> None:
    setting = methods.Setting("segmentation", "b", 224, 14, "no")
    found = [methods.Run(methods.METHODS[0], share, 2).recipe(setting) for share in methods.PASSES]
    assert [r.epochs for r in found] == [14, 42, 84] and [r.epochs / r.validate_every for r in found] == [14, 14, 14]
    images = [r.epochs * r.ratio for r in found]
    assert images == sorted(images, reverse=True)
    assert not any(r.drop_last or r.validate_offset for r in found) and {r.augment for r in found} == {"light"}


def test_the_order_of_runs() -> None:
    """The main methods come first, with all their seeds, then the others, and then the smaller shares."""
    names = [run.name for run in methods.order("segmentation")]
    main = ("heads", "hybrid_gain", "hybrid_spectral", "lora", "baseline", "noise_aware")
    assert names[:18] == [f"100-{method}-{seed}" for seed in range(3) for method in main]
    assert names[18:22] == [f"100-{m}-0" for m in ("freq_enhanced", "full", "unet")] + ["20-heads-0"]
    assert len(names) == len(set(names)) == 3 * 21
    assert not any("unet" in run.name for run in methods.order("classification"))
    assert len(list(methods.order("segmentation", 2))) == 3 * 2 * 9


def test_near_duplicates_are_removed_from_train_and_val(tmp_path: Path) -> None:
    root = make_layout(tmp_path / "data")
    names = {s: (root / f"segmentation/BUSI/{s}.txt").read_text().split() for s in ("train", "val", "test")}
    whole = data.read(root, "BUSI", "segmentation", 48)
    assert whole.removed == {"train": 0, "val": 0}
    image = Image.open(root / "all/images" / names["test"][0])
    image.save(root / "all/images" / names["val"][0])
    brighter = image.point(lambda v: min(255, v + 5))
    brighter.save(root / "all/images" / names["train"][1])
    data.read.cache_clear()
    fewer = data.read(root, "BUSI", "segmentation", 48)
    assert fewer.removed == {"train": 1, "val": 1} and len(fewer.test) == len(whole.test)
    assert names["train"][1] not in fewer.train.names and names["val"][0] not in fewer.val.names


@pytest.mark.parametrize("name", ["heads", "unet"])
def test_a_run_that_was_stopped_goes_on(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with the curve and scores of one that was not stopped, and no epoch is finished twice."""
    splits = data.read(make_layout(tmp_path / "data"), "BUSI", "segmentation", 64)
    setting = methods.Setting("segmentation", "timm/vit_tiny_patch16_224", 64, 2, "no")
    method = replace(next(m for m in methods.METHODS if m.name == name), passes=1)
    run, trained, stopped = methods.Run(method, 100, 0), [], tmp_path / "stopped"
    train_epoch = Trainer._train_epoch

    def counted(trainer: Trainer) -> float:
        trained.append(trainer.epoch)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train_epoch(trainer)

    whole = runs.do(run, setting, splits, None, tmp_path / "whole")
    monkeypatch.setattr(Trainer, "_train_epoch", counted)
    with pytest.raises(KeyboardInterrupt):
        runs.do(run, setting, splits, None, stopped)
    assert not runs.finished(stopped, [run])
    resumed = runs.do(run, setting, splits, None, stopped)
    assert trained == [0, 1, 1] and runs.finished(stopped, [run]) == [resumed]
    assert resumed["images"] == whole["images"] and resumed["best_epoch"] == whole["best_epoch"]
    assert [row["loss"] for row in resumed["curve"]] == pytest.approx([row["loss"] for row in whole["curve"]])


def test_results_of_other_images_are_not_taken(tmp_path: Path) -> None:
    splits = data.read(make_layout(tmp_path / "data"), "BUSI", "segmentation", 64)
    setting = methods.Setting("segmentation", "timm/vit_tiny_patch16_224", 64, 2, "no")
    run = methods.Run(methods.METHODS[0], 100, 0)
    result = tmp_path / "runs" / run.name / "result.json"
    result.parent.mkdir(parents=True)
    earlier = {"setting": asdict(setting), "made_of": runs.made_of(splits, None), "recipe": {}}
    result.write_text(json.dumps(earlier))
    assert runs.do(run, setting, splits, None, tmp_path) == earlier
    other = replace(splits, test=replace(splits.test, images=splits.test.images + 1))
    weights = tmp_path / "weights"
    weights.write_bytes(b"other")
    for given, tower, changed in ((other, None, "images was"), (splits, str(weights), "tower was None")):
        with pytest.raises(InputError, match=f"{changed} .*name another folder"):
            runs.do(run, setting, given, tower, tmp_path)


def test_a_pack_is_read_as_the_data_it_was_made_of(tmp_path: Path) -> None:
    """Images, masks, labels and splits are the same; the weights are those of the tower in half precision."""
    root, packed, weights = make_layout(tmp_path / "data"), tmp_path / "pack", tmp_path / "weights.safetensors"
    save_file({"pos_embed": torch.tensor([1.0, 1 / 3])}, weights)
    small = ["--image-size", "48", "--tower", str(weights)]
    assert pack.main([str(root), "--output", str(packed), *small]) == 0
    for task in data.TASKS:
        there, here = (data.read(folder, "BUSI", task, 48) for folder in (root, packed))
        for split in ("train", "val", "test"):
            one, other = getattr(there, split), getattr(here, split)
            assert one.names == other.names
            assert torch.equal(one.images, other.images) and torch.equal(one.targets, other.targets)
    assert pack.tower_of(root) is None
    found = load_file(str(pack.tower_of(packed)))["pos_embed"]
    assert torch.equal(found, torch.tensor([1.0, 1 / 3]).half())
    assert pack.main([str(tmp_path / "none"), "--output", str(tmp_path / "no"), *small]) == 2
    assert not (tmp_path / "no").exists()


def arguments(tmp_path: Path, *more: str) -> list[str]:
    small = ["--backbone", "timm/vit_tiny_patch16_224", "--image-size", "64", "--seeds", "1", "--share", "100"]
    return [str(make_layout(tmp_path / "data")), "--output", str(tmp_path / "out"), *small, *more]


def test_classification_has_its_own_table_and_picture(tmp_path: Path) -> None:
    known = arguments(tmp_path, "--task", "classification", "--epochs", "1", "--only", "heads")
    assert main(known) == 0
    (row,) = csv.DictReader((tmp_path / "out/results.csv").open())
    assert row["method"] == "heads" and 0 <= float(row["auc"]) <= 1
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"chart.png", "curves.png", "reliability.png"}


def test_runs_are_trained_once_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    chosen = tuple(m for m in methods.METHODS if m.name in ("heads", "hybrid_spectral", "unet"))
    for module in (methods, report, times):
        monkeypatch.setattr(module, "METHODS", chosen)
    known = arguments(tmp_path, "--epochs", "2")
    assert main(known) == 0
    table = list(csv.DictReader((output / "results.csv").open()))
    assert [r["method"] for r in table] == [m.name for m in chosen]
    kept = {path.parent.name for path in (output / "runs").glob("*/best.safetensors")}
    assert kept == {"100-hybrid_spectral-0"} and not list((output / "runs").glob("*/last.pt"))
    saved = json.loads((output / "runs/100-heads-0/result.json").read_text())
    assert len(saved["images"]) == 3 and len(saved["curve"]) == 2
    before = (output / "runs/100-heads-0/result.json").stat().st_mtime_ns
    assert main([*known, "--times", "0.01"]) == 0 and main(known) == 0
    assert (output / "runs/100-heads-0/result.json").stat().st_mtime_ns == before
    measured = json.loads((output / "times.json").read_text())["seconds_of_a_pass"]
    assert set(measured["heads"]) == {"published", "ours"} and set(measured["hybrid_spectral"]) == {"ours"}
    assert {path.name for path in output.glob("*.png")} == {"chart.png", "curves.png"}
    assert main([*known, "--epochs", "3"]) == 2
    assert "name another folder" in capsys.readouterr().err
    result = output / "runs/100-heads-0/result.json"
    result.write_text(json.dumps(saved | {"recipe": {"adapter_learning_rate": 1.0}}))
    assert main(known) == 2
    assert "recipe was {'adapter_learning_rate': 1.0} and is {} now" in capsys.readouterr().err
    assert main([*known, "--tower", "no/such.safetensors"]) == 2
    assert "there is no file no/such.safetensors with the tower" in capsys.readouterr().err


def test_both_ways_have_the_same_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "BATCH", 2)
    small = ["--backbone", "timm/vit_tiny_patch16_224", "--image-size", "32", "--epochs", "2"]
    root = str(make_layout(tmp_path / "data"))
    assert beside_published.main([root, *small, "--output", str(tmp_path / "out")]) == 0
    rows = json.loads((tmp_path / "out/beside_published.json").read_text())["rows"]
    assert [row["way"] for row in rows] == ["published", "ours"] and len(rows[0]["losses"]) == 6
    assert rows[0]["losses"] == pytest.approx(rows[1]["losses"], rel=1e-3)
    assert rows[0]["losses"][-1] != rows[0]["losses"][0]
    assert "times as fast. The losses differ by" in (tmp_path / "out/beside_published.md").read_text()


def test_training_steps_are_the_same_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    assert training._resident("VmHWM") >= training._resident("VmRSS") > 2**20
    monkeypatch.setattr(training, "_memory", lambda name, kind, *_: {"published": 4, "ours": 1}[kind] * 2**20)
    figures = training.measure(training.SHIPPED, 1, 0.01, 3, torch.device("cpu"))
    assert figures["largest_difference"] < 1e-4 < figures["losses"]["ours"][0]
    assert "| 4 MiB | 1 MiB | 25% |" in (line := training.table([figures])[-1]) and "in 3 steps" in line
