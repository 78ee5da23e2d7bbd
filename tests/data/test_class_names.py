"""Names of classes, and masks of several."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.layout import disc, make_layout, save
from helpers.several_classes import NAMES, make_several, scene
from ht_kernels.data import ClassificationDataset, SegmentationDataset
from ht_kernels.data.layout import chosen_class_names, class_names
from ht_kernels.data.two_values import check_two_values
from ht_kernels.errors import InputError

LIST = "segmentation/LEG/classes.txt"


def write_names(root: Path, text: str) -> None:
    (root / LIST).parent.mkdir(parents=True, exist_ok=True)
    (root / LIST).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("text", ["background\nknorpel\ngefäß", "\ufeffbackground\r\n knorpel \r\ngefäß\r\n\r\n"])
def test_a_name_a_line(text: str, tmp_path: Path) -> None:
    assert class_names(tmp_path, "segmentation", "LEG") is None
    write_names(tmp_path, text)
    assert class_names(tmp_path, "segmentation", "LEG") == ("background", "knorpel", "gefäß")
    assert class_names(tmp_path, "classification", "LEG") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"classes\.txt names 0 classes, expected 2 to 32, the background first"),
        ("background\n", "names 1 class, expected 2 to 32"),
        ("\n".join(map(str, range(33))), "names 33 classes, expected 2 to 32"),
        ("background\n\nvessel", "has an empty name for class 1, expected a name for each class"),
        ("background\ncyst\ncyst", "names class 1 and class 2 cyst, expected another name for each"),
        ("background\na\tb", r"names class 1 'a\\tb', expected characters that can be printed"),
    ],
)
def test_lists_that_name_no_classes(text: str, message: str, tmp_path: Path) -> None:
    write_names(tmp_path, text)
    with pytest.raises(InputError, match=message):
        class_names(tmp_path, "segmentation", "LEG")


def test_names_that_were_given_and_those_of_the_file(tmp_path: Path) -> None:
    where = tmp_path, "segmentation", "LEG"
    assert chosen_class_names(*where, None, "--classes") is None
    assert chosen_class_names(*where, NAMES, "--classes") == NAMES
    with pytest.raises(InputError, match=r"^--classes names 1 class, expected 2 to 32"):
        chosen_class_names(*where, ("lesion",), "--classes")
    write_names(tmp_path, "\n".join(NAMES))
    assert chosen_class_names(*where, None, "--classes") == chosen_class_names(*where, NAMES, "--classes") == NAMES
    with pytest.raises(InputError, match=r"--classes names the classes .*cyst, and .*/classes\.txt says .*vessel: l"):
        chosen_class_names(*where, (NAMES[0], NAMES[2], NAMES[1]), "--classes")


def test_a_label_has_the_name_of_the_file(tmp_path: Path) -> None:
    root = make_layout(tmp_path)
    (root / "classification/BUSI/classes.txt").write_text("harmless\nharmful")
    data = ClassificationDataset(root, "BUSI", "train")
    assert data.classes == ("harmless", "harmful") and data.named
    (root / "classification/BUSI/labels.csv").write_text("BUSI_0.png,2")
    with pytest.raises(InputError, match=r"has label 2, expected one of 0 \(harmless\), 1 \(harmful\)"):
        ClassificationDataset(root, "BUSI", "train")


def test_masks_of_several_classes(tmp_path: Path) -> None:
    root = make_several(tmp_path)
    data = SegmentationDataset(root, "LEG", "val", 64)
    assert data.classes == NAMES and data.named
    assert np.array_equal(data[3][1], scene(27)[1])
    assert set(SegmentationDataset(root, "LEG", "val", 224)[3][1].unique().tolist()) == {0, 1, 2}, "no class between"
    save(root / "all/masks/LEG_24.png", scene(24)[1] * 3)
    with pytest.raises(InputError, match=r"LEG_24\.png has the values 3, 6, and the classes are 0 \(backg"):
        data[0]
    (root / LIST).unlink()
    assert SegmentationDataset(root, "LEG", "val").classes == ("background", "lesion")


def two(root: Path, *values: int, named: bool = False) -> None:
    """Masks of two values each, of which the larger are ``values``, looked at as two classes."""
    for i in range(5):
        save(root / f"all/masks/BUSI_{i}.png", disc(i) * np.uint8(values[i % len(values)]))
    check_two_values(root, "BUSI", ["train"], named, "Name them.")


def test_masks_of_two_values_each_may_have_several_classes(tmp_path: Path) -> None:
    root = make_layout(tmp_path)
    for values in ((1,), (2,), (255,), (200,), (1, 255)):
        two(root, *values)
    with pytest.raises(InputError, match=r"the 5 masks of BUSI have more .*: 0 in 5, 1 in 3, 2 in 2\. Name them\.$"):
        two(root, 1, 2)
    with pytest.raises(InputError, match=r"0 in 5, 100 in 3, 200 in 2\. Name"):
        two(root, 100, 200)
    two(root, 100, 200, named=True)
    with pytest.raises(InputError, match=r"0 in 5, 1 in 3, 2 in 2\. Name"):
        two(root, 1, 2, named=True)


def test_edges_in_gray_are_no_classes(tmp_path: Path) -> None:
    root = make_layout(tmp_path)
    data = SegmentationDataset(root, "BUSI", "train")
    mask = disc(0) * np.uint8(255)
    mask[mask.any(1).argmax()] //= 2
    save(root / "all/masks/BUSI_0.png", mask)
    (root / "all/masks/BUSI_1.png").write_text("damaged")
    check_two_values(root, "BUSI", ["train"], False, "")
    assert 0 < data[0][1].float().mean() < 1
    save(root / "all/masks/BUSI_0.png", np.repeat(np.uint8([0, 100, 200, 250]), 520).reshape(40, 52))
    with pytest.raises(InputError, match="0 in 4, 100 in 1, 200 in 1, 250 in 1, 255 in 3"):
        check_two_values(root, "BUSI", ["train"], False, "")


def test_a_small_area_of_another_class_is_not_overlooked(tmp_path: Path) -> None:
    """By its colours such a mask would be read as a lesion with a speck."""
    root = make_layout(tmp_path)
    mask = disc(0)
    mask[0, :2] = 2
    image = Image.fromarray(mask)
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    image.save(root / "all/masks/BUSI_0.png")
    data = SegmentationDataset(root, "BUSI", "train")
    assert set(data[0][1].unique().tolist()) == {0, 1}
    with pytest.raises(InputError, match="0 in 5, 1 in 1, 2 in 1, 255 in 4"):
        check_two_values(root, "BUSI", ["train"], False, "")
