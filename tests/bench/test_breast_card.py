"""The figures of the model card: what makes a lesion hard, groups, means with intervals, and the program."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ht_kernels as ht
from benchmarks.breast_card import __main__ as program
from benchmarks.breast_card import measures, pictures
from benchmarks.changes import CHANGES
from benchmarks.real_data import statistics
from helpers.layout import make_layout, picture
from helpers.small_models import calibrated
from ht_kernels.errors import InputError
from ht_kernels.train import Examples
from ht_kernels.train.baselines import new_baseline

pytestmark = pytest.mark.usefixtures("one_thread")


def row(name: str, dice: float, **values: Any) -> dict[str, Any]:
    found = {"iou": dice / 2, "hd95": 10 * dice if dice else math.nan, "missed": int(dice == 0), "unfamiliar": False}
    found["hd95_all"] = found["hd95"] if dice else 100 * 2**0.5
    usual = {"area": 0.1, "contrast": 0.5, "shadow": 1.0, "confidence": dice if dice else math.nan}
    return {"name": name, "dice": dice, **found, **usual, **values}


def test_the_appearance_of_a_lesion() -> None:
    """Only the ring counts as around, and only the boxes below the lesion as below and beside."""
    image, lesion = np.full((64, 64), 200, np.uint8), np.zeros((64, 64), bool)
    lesion[20:28, 24:40] = True
    image[16:32, 20:44] = 100  # what is within 4 pixels, a 16th of the side
    image[lesion] = 80
    image[28:36, 28:36] = 30  # below, 4 columns less on either side
    image[28:36, 16:24] = image[28:36, 40:48] = 120
    looks = measures.appearance(image, lesion)
    ring = np.zeros_like(lesion)
    for i, j in np.ndindex(64, 64):
        far = math.hypot(max(20 - i, 0, i - 27), max(24 - j, 0, j - 39))
        ring[i, j] = 0 < far <= 4
    assert looks["area"] == 128 / 4096 and looks["contrast"] == pytest.approx(80 / image[ring].mean())
    assert looks["shadow"] == pytest.approx(30 / 120)
    outside = image.copy()
    outside[40:], outside[:12] = 0, 255
    assert measures.appearance(outside, lesion) == looks


def test_a_lesion_at_the_lower_edge_has_no_shadow() -> None:
    lesion = np.zeros((32, 32), bool)
    lesion[20:, 8:20] = True
    assert math.isnan(measures.appearance(np.full((32, 32), 9, np.uint8), lesion)["shadow"])


def test_groups() -> None:
    rows = [
        row("a", 1, area=0.01),
        row("b", 1, area=0.02, contrast=0.76),
        row("c", 1, area=0.10, contrast=0.74, shadow=0.5),
        row("d", 1, area=0.11, contrast=1.24, shadow=0.75),
        row("e", 1, area=0.30, contrast=1.26, shadow=0.76),
        row("f", 1, area=0.40, shadow=math.nan),
    ]
    found = measures.groups(rows, {"a": "benign", "b": "malignant", "c": "benign"}, {"a", "f"})
    members = {group.name: "".join("abcdef"[i] for i in np.flatnonzero(group.chosen)) for group in found}
    assert members == {
        "benign": "ac",
        "malignant": "b",
        "small": "ab",
        "middle": "cd",
        "large": "ef",
        "isoechoic": "bd",
        "shadowed": "cd",
        "none of the three": "ef",
        "with a near duplicate": "bcde",
        "without one": "af",
    }
    assert [measures.reasons(found, i) for i in (1, 3, 4)] == [["small", "isoechoic"], ["isoechoic", "shadowed"], []]


def test_estimates_are_those_of_the_study_with_intervals() -> None:
    rows = [row(str(i), dice) for i, dice in enumerate((0.0, 0.5, 0.6, 0.9))]
    found = measures.summarize(rows)
    study = statistics.summary({"images": rows, "setting": {"task": "segmentation", "image_size": 100}})
    assert found["images"] == study.pop("lesions") == 4 and found["missed"] == study.pop("missed") == 1
    for name, mean in study.items():
        assert found[name].mean == pytest.approx(mean), name
        assert found[name].low < mean < found[name].high, name
    assert found["hd95"].mean == pytest.approx(20 / 3) and found["hd95_all"].high > 50
    assert measures.estimates(rows[1:2])["dice"] == (0.5, 0.5, 0.5)
    assert math.isnan(measures.estimates(rows[:1])["hd95"].mean)


def test_confidence_and_dice() -> None:
    """A mask without an outline has no confidence and does not count."""
    rows = [row(str(i), dice, confidence=c) for i, (dice, c) in enumerate([(0.1, 0.2), (0.5, 0.3), (0.6, 0.1)])]
    assert measures.agreement([*rows, row("missed", 0.0)]).mean == pytest.approx(-0.5)
    assert measures.agreement([row("missed", 0.0)]).mean != measures.agreement(rows).mean


def test_near_duplicates_are_counted() -> None:
    """Pictures 0 to 3 are in the training split; the test split has 1 again, brighter, and one of its own twice."""

    def examples(*seeds: int) -> Examples:
        images = torch.stack([torch.from_numpy(picture(seed).copy()) for seed in seeds])[:, None]
        return Examples(images, torch.zeros(len(seeds), 40, 52), tuple(map(str, seeds)), {})

    splits = {"train": examples(0, 1, 2, 3), "val": examples(4, 5), "test": examples(1, 6, 6, 7)}
    assert program.near(splits) == {"train": 1, "val": 0, "test": 1, "within test": 2}


def test_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model = ht.HTCLIP("timm/vit_tiny_patch16_224", image_size=64, bottleneck=8, reduce_dim=16).eval()
    path, out = tmp_path / "model.safetensors", tmp_path / "out"
    arguments = [str(make_layout(tmp_path / "data")), str(path), "--output", str(out)]
    model.save(path)
    assert program.main(arguments) == 2 and "calibrate it with" in capsys.readouterr().err
    calibrated(model).save(path)

    def fail(*_: Any) -> None:
        raise InputError("no picture")

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "draw_dice", fail)
        assert program.main(arguments) == 2 and not out.exists()
    capsys.readouterr()
    assert program.main(arguments) == 0
    names = {file.name for file in out.iterdir()}
    assert names - {"confidence.png"} == {"card.json", "card.md", "dice.png", "worst.png"}
    card = json.loads((out / "card.json").read_text())
    rows = {row["set"]: row for row in card["rows"]}
    assert rows["test"]["images"] == 3 and rows["validation"]["images"] == 2 and rows["small"]["images"] == 1
    assert rows["benign"]["images"] + rows["malignant"]["images"] == 3
    of_test = [image for image in card["images"] if image["split"] == "test"]
    assert rows["test"]["dice"][0] == pytest.approx(np.mean([image["dice"] for image in of_test]))
    assert rows["test"]["unfamiliar"] == sum(image["distance"] > card["limit"] for image in of_test)
    text = (out / "card.md").read_text()
    assert "| images | 2 | 3 |" in text and "another seed" in text and capsys.readouterr().out == text

    unet, both = tmp_path / "unet.safetensors", tmp_path / "both"
    new_baseline("unet", "segmentation", image_size=96).save(unet)
    assert program.main([*arguments[:-1], str(both), "--beside", str(unet)]) == 0
    compared = {row["set"]: row for row in json.loads((both / "card.json").read_text())["beside"]}
    assert list(compared) == ["validation", *(f"test, {change}" for change in CHANGES)]
    assert compared["validation"]["model"] == pytest.approx(rows["validation"]["dice"])
    for each in compared.values():
        assert each["difference"][0] == pytest.approx(each["model"][0] - each["other"][0])
    assert text in (both / "card.md").read_text() and "| Dice | model | UNet |" in (both / "card.md").read_text()
    assert program.main([*arguments, "--beside", str(path)]) == 2
    assert "is not the checkpoint of a UNet or ResNet" in capsys.readouterr().err
    new_baseline("unet", "segmentation", 3, image_size=96).save(unet)
    assert program.main([*arguments, "--beside", str(unet)]) == 2
    assert "has 3 classes, and --beside is for 2" in capsys.readouterr().err
