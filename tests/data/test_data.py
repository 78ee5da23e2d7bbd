"""Datasets in the published layout: what they give, and what they say of bad data."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ht_kernels as ht
from helpers.layout import SPLITS, disc, make_layout, picture, save
from ht_kernels.data import CaptionDataset, ClassificationDataset, SegmentationDataset
from ht_kernels.data.layout import DATASETS
from ht_kernels.errors import InputError
from ht_kernels.media.preprocess import preprocess


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_layout(tmp_path / "data")


def test_segmentation(root: Path) -> None:
    for split, count in SPLITS.items():
        assert len(SegmentationDataset(root, "BUSI", split)) == count
    dataset = SegmentationDataset(root, "BUSI", "train")
    image, mask = dataset[1]
    assert dataset.names[1] == "BUSI_1.png"
    assert image.shape == (3, 224, 224) and image.dtype == torch.float32
    assert mask.shape == (224, 224) and mask.dtype == torch.int64
    assert torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])
    # What is trained on is what the video pipeline shows to the model.
    assert torch.equal(image[0], torch.from_numpy(preprocess(picture(1), (224, 224))[0, 0]) / 255)
    expected = Image.fromarray(disc(1)).resize((224, 224), Image.Resampling.NEAREST)
    assert np.array_equal(mask.numpy(), np.asarray(expected)) and set(mask.unique().tolist()) == {0, 1}
    small = SegmentationDataset(str(root), "BUSI", "val", image_size=64)[0]
    assert small[0].shape == (3, 64, 64) and small[1].shape == (64, 64)


@pytest.mark.parametrize("dataset", [SegmentationDataset, ClassificationDataset])
def test_sizes_that_no_image_has(dataset: Callable[..., object], root: Path) -> None:
    for size in (0, -224, 100_000):
        with pytest.raises(InputError, match=rf"image_size {size} was given, expected 1 to 8192 pixels"):
            dataset(root, "BUSI", "val", size)
    with pytest.raises(TypeError, match="image_size must be a whole number"):
        dataset(root, "BUSI", "val", 224.5)


@pytest.mark.parametrize("name", DATASETS)
def test_every_published_data_set(name: str, tmp_path: Path) -> None:
    root = make_layout(tmp_path, name)
    assert len(SegmentationDataset(root, name, "test")) == len(ClassificationDataset(root, name, "test")) == 3


@pytest.mark.parametrize("ink", [1, 255])
@pytest.mark.parametrize("mode", ["L", "1", "RGB"])
def test_masks_of_any_kind(root: Path, ink: int, mode: str) -> None:
    pixels = disc(0) * np.uint8(ink if mode == "L" else 255)
    Image.fromarray(pixels).convert(mode).save(root / "all/masks/BUSI_0.png")
    assert np.array_equal(SegmentationDataset(root, "BUSI", "train", 52)[0][1].unique().numpy(), [0, 1])


def test_color_images_become_gray(root: Path) -> None:
    color = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    save(root / "all/images/BUSI_0.png", color)
    image, _ = SegmentationDataset(root, "BUSI", "train")[0]
    assert torch.equal(image[0], torch.from_numpy(preprocess(color, (224, 224))[0, 0]) / 255)


def test_classification(root: Path) -> None:
    dataset = ClassificationDataset(root, "BUSI", "train")
    image, label = dataset[1]
    assert image.shape == (3, 224, 224) and image.dtype == torch.float32 and label == 1
    assert dataset.labels == [0, 1, 0, 1, 0] and dataset.classes == ("benign", "malignant")
    labels = root / "classification/BUSI/labels.csv"
    labels.write_text("image,label\n" + labels.read_text())
    assert ClassificationDataset(root, "BUSI", "train").labels == dataset.labels
    named = ClassificationDataset(root, "BUSI", "test", classes=("no", "yes", "maybe"))
    assert named.classes == ("no", "yes", "maybe")


def test_loading_in_workers(root: Path) -> None:
    loader = torch.utils.data.DataLoader(SegmentationDataset(root, "BUSI", "train", 32), batch_size=5, num_workers=1)
    (batch,) = loader
    assert batch[0].shape == (5, 3, 32, 32) and batch[1].shape == (5, 32, 32)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda r: (r / "all/masks/BUSI_0.png").unlink(),
            r"the mask .*masks/BUSI_0.png of .*images/BUSI_0.png is miss",
        ),
        (
            lambda r: save(r / "all/masks/BUSI_0.png", disc(0, (40, 50))),
            "BUSI_0.png is 50x40 pixels, .* is 52x40; expe",
        ),
        (lambda r: (r / "all/images/BUSI_0.png").unlink(), "there is no file .*images/BUSI_0.png"),
        (lambda r: truncate(r / "all/images/BUSI_0.png"), "images/BUSI_0.png cannot be read as an image"),
        (lambda r: truncate(r / "all/masks/BUSI_0.png"), "masks/BUSI_0.png cannot be read as an image"),
        (lambda r: (r / "all/images/BUSI_0.png").write_text("text"), "images/BUSI_0.png cannot be read as an image"),
        (
            lambda r: (r / "segmentation/BUSI/train.txt").write_text("\n \n"),
            "train.txt names no images: the train split",
        ),
        (lambda r: (r / "segmentation/BUSI/train.txt").unlink(), "train.txt is missing"),
        (lambda r: (r / "segmentation/BUSI/train.txt").write_text("a.png\na.png"), "train.txt names a.png twice"),
        (lambda r: (r / "segmentation/BUSI/train.txt").write_text("../a.png"), "without folders"),
        (lambda r: (r / "segmentation/BUSI/train.txt").write_bytes(b"\xff\xfe\xff"), "train.txt cannot be read"),
    ],
)
def test_bad_segmentation_data(root: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(root)
    with pytest.raises(InputError, match=message) as caught:
        SegmentationDataset(root, "BUSI", "train")[0]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            "BUSI_0.png,2\n",
            r"labels.csv, row 1: BUSI_0.png has label 2, expected one of 0 \(benign\), 1 \(malignant\)",
        ),
        ("BUSI_0.png,benign\n", "row 1: BUSI_0.png has label benign, expected one of 0"),
        ("BUSI_0.png\n", "expected an image's name and a number"),
        ("BUSI_0.png,-1\n", "row 1: BUSI_0.png has label -1, expected one of 0"),
        ("BUSI_0.png,0\nBUSI_0.png,1\n", "row 2: BUSI_0.png has label 1, and 0 before"),
        ("BUSI_0.png,0\n", "labels.csv has no label for BUSI_1.png, which is in the train split"),
        ("image,label\n", "labels.csv has no labels"),
    ],
)
def test_bad_labels(root: Path, labels: str, message: str) -> None:
    (root / "classification/BUSI/labels.csv").write_text(labels)
    with pytest.raises(InputError, match=message):
        ClassificationDataset(root, "BUSI", "train")


def test_what_is_not_there(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no folder .*segmentation/TN3K: there are BUSI"):
        SegmentationDataset(root, "TN3K", "train")
    with pytest.raises(InputError, match=r"holds no classification data\nexpected\n  DATA/all/images/NAME.png\n"):
        ClassificationDataset(tmp_path / "elsewhere", "BUSI", "train")
    with pytest.raises(InputError, match="split 'valid' is unknown; expected one of train, val, test"):
        SegmentationDataset(root, "BUSI", "valid")


def test_it_is_a_part_of_the_package() -> None:
    assert ht.data.SegmentationDataset is SegmentationDataset


NODULE = "nódulo.png"
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, NODULE) for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("listed", "image", "mask"),
    [
        (COMPOSED, DECOMPOSED, COMPOSED),
        (DECOMPOSED, COMPOSED, DECOMPOSED),
        ("BUSI_0.png", "BUSI_0.PNG", "BUSI_0.Png"),
        ("BUSI_0.PNG", "BUSI_0.png", "BUSI_0.png"),
    ],
)
def test_names_that_are_the_same(root: Path, listed: str, image: str, mask: str) -> None:
    expected = SegmentationDataset(root, "BUSI", "train")[0], ClassificationDataset(root, "BUSI", "train")[0]
    for kind, name in (("images", image), ("masks", mask)):
        (root / "all" / kind / "BUSI_0.png").rename(root / "all" / kind / name)
    for task in ("segmentation", "classification"):
        (root / task / "BUSI/train.txt").write_text(f"{listed}\n", encoding="utf-8")
    (root / "classification/BUSI/labels.csv").write_text(f"{image},0\n", encoding="utf-8")
    found = SegmentationDataset(root, "BUSI", "train")[0], ClassificationDataset(root, "BUSI", "train")[0]
    assert torch.equal(found[0][0], expected[0][0]) and torch.equal(found[0][1], expected[0][1])
    assert torch.equal(found[1][0], expected[1][0]) and found[1][1] == 0
    (root / "contrastive/BUSI").mkdir(parents=True)
    (root / "contrastive/BUSI/train.txt").write_text(listed, encoding="utf-8")
    (root / "contrastive/BUSI/captions.csv").write_text(f"{image},a mass\n", encoding="utf-8")
    assert CaptionDataset(root, "BUSI", "train", lambda picture: torch.zeros(1))[0][1] == ("a mass",)
    (root / "segmentation/BUSI/train.txt").write_text(f"{listed}\n{image}\n", encoding="utf-8")
    with pytest.raises(InputError, match="twice"):
        SegmentationDataset(root, "BUSI", "train")


def test_names_that_differ_in_case(root: Path) -> None:
    (root / "all/images/BUSI_0.png").rename(root / "all/images/busi_0.png")
    with pytest.raises(InputError, match=r"no file .*images/BUSI_0.png"):
        SegmentationDataset(root, "BUSI", "train")[0]


def test_a_file_that_comes_later_is_found(root: Path) -> None:
    dataset = SegmentationDataset(root, "BUSI", "train")
    image = root / "all/images/BUSI_0.png"
    image.rename(root / "moved.png")
    with pytest.raises(InputError, match="no file"):
        dataset[0]
    (root / "moved.png").rename(image.with_suffix(".PNG"))
    os.utime(image.parent, ns=(0, 1))  # on a file system of coarse times the folder may look the same
    assert dataset[0][0].shape == (3, 224, 224)


@pytest.mark.parametrize(
    "content", ["\ufeffBUSI_0.png\r\nBUSI_1.png \r\n\r\n", "BUSI_0.png\rBUSI_1.png", " BUSI_0.png\nBUSI_1.png"]
)
def test_lists_of_any_editor(root: Path, content: str) -> None:
    (root / "segmentation/BUSI/train.txt").write_bytes(content.encode())
    assert SegmentationDataset(root, "BUSI", "train").names == ["BUSI_0.png", "BUSI_1.png"]


ROWS = "BUSI_0.png,0\nBUSI_1.png,1\nBUSI_2.png,0\nBUSI_3.png,1\nBUSI_4.png,0\n"


@pytest.mark.parametrize(
    "content",
    [
        ROWS,
        "image,label\n" + ROWS,
        "Filename,Label\n" + ROWS,
        "label,name\n" + "".join(",".join(reversed(row.split(","))) + "\n" for row in ROWS.split()),
        "\ufeffimage,label\r\n" + ROWS.replace("\n", "\r\n"),
        ROWS.replace(",0", ", 0 ").replace(",1", ',"1"'),
        ROWS.replace(",0", ",0.0").replace(",1", ",01"),
        "\n" + ROWS.replace("\n", "\n\n") + ",\n , \n",
        "label,patient,image\n" + "".join(f"{row[-1]},p,{row[:-2]}\n" for row in ROWS.split()),
    ],
)
def test_tables_of_any_editor(root: Path, content: str) -> None:
    (root / "classification/BUSI/labels.csv").write_bytes(content.encode())
    assert ClassificationDataset(root, "BUSI", "train").labels == [0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("1000000000", "row 2: BUSI_1.png has label 1000000000, expected a whole number from 0 to 999"),
        ("1000", "has label 1000, expected a whole number from 0 to 999"),
        ("9" * 5000, "has label 9999"),
        ("-1", "has label -1, expected a whole number"),
        ("1.5", "has label 1.5, expected a whole number"),
        ("nan", "has label nan, expected a whole number"),
        ("1,", r"row 2: 'BUSI_1.png,1,' came, expected an image's name and a number with a comma"),
        ("", "row 2: 'BUSI_1.png,' came"),
        ("x" * 200_000, "labels.csv is no CSV file: field larger than"),
    ],
)
def test_labels_that_make_no_sense(root: Path, label: str, message: str) -> None:
    (root / "classification/BUSI").rename(root / "classification/OWN")
    (root / "classification/OWN/labels.csv").write_text(f"BUSI_0.png,0\nBUSI_1.png,{label}\n")
    with pytest.raises(InputError, match=message) as caught:
        ClassificationDataset(root, "OWN", "train")
    assert len(str(caught.value)) < 500


def test_separators_other_than_commas(root: Path) -> None:
    for separator in (";", "\t"):
        (root / "classification/BUSI/labels.csv").write_text(ROWS.replace(",", separator))
        with pytest.raises(InputError, match=r"row 1: .* came, expected an image's name and a number with a comma"):
            ClassificationDataset(root, "BUSI", "train")


def test_captions_by_the_columns_of_the_published_code(root: Path) -> None:
    (root / "contrastive/BUSI").mkdir(parents=True)
    (root / "contrastive/BUSI/train.txt").write_text("BUSI_0.png\n")
    row = 'BUSI_0.png,"a mass, large"'
    for content in (row, f"filename,Caption\n{row}\n", 'Caption,filename\n"a mass, large",BUSI_0.png\n'):
        (root / "contrastive/BUSI/captions.csv").write_text(content)
        assert CaptionDataset(root, "BUSI", "train", lambda picture: torch.zeros(1)).captions == [("a mass, large",)]


@pytest.mark.parametrize(
    ("name", "message"),
    [("._BUSI_0.png", "a hidden file"), ("Thumbs.db", "a hidden file"), ("images\\BUSI_0.png", "without folders")],
)
def test_lists_that_name_no_images(root: Path, name: str, message: str) -> None:
    (root / "segmentation/BUSI/train.txt").write_text(name)
    with pytest.raises(InputError, match=message):
        SegmentationDataset(root, "BUSI", "train")


def test_hidden_folders_are_no_data_sets(root: Path) -> None:
    (root / "segmentation/.Trashes").mkdir()
    with pytest.raises(InputError, match=r"there are BUSI$"):
        SegmentationDataset(root, "TN3K", "train")


def test_a_mask_that_is_none(root: Path) -> None:
    save(root / "all/masks/BUSI_0.png", disc(0) + disc(1))
    with pytest.raises(InputError, match=r"masks/BUSI_0.png has the values 0, 1, 2; expected two values"):
        SegmentationDataset(root, "BUSI", "train")[0]
    save(root / "all/masks/BUSI_0.png", np.rot90(disc(0)).copy())
    with pytest.raises(InputError, match=r"is 40x52 pixels, but its image .* is 52x40"):
        SegmentationDataset(root, "BUSI", "train")[0]


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_mask_covers_what_it_covers(ending: str, tmp_path: Path) -> None:
    """The area in training is that of the file, in JPEG and in an alpha channel, too."""
    root = make_layout(tmp_path)
    mask = np.zeros((48, 64), np.uint8)
    mask[12:36, 16:32] = 255
    name = f"a.{ending}"
    save(root / "all/images" / name, picture(0, (48, 64)))
    if ending == "jpg":
        save(root / "all/masks" / name, mask, quality=30)
    else:
        save(root / "all/masks" / name, np.dstack([np.full((48, 64, 3), 255, np.uint8), mask]))
    (root / "segmentation/BUSI/train.txt").write_text(name)
    _, found = SegmentationDataset(root, "BUSI", "train", 192)[0]
    assert found.float().mean() == pytest.approx(0.125, abs=0.001)


def test_image_and_mask_of_a_turned_photograph(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind, pixels in (("images", picture(0)), ("masks", disc(0) * np.uint8(255))):
        save(root / "all" / kind / "BUSI_0.jpg", pixels, exif=exif, quality=95)
    (root / "segmentation/BUSI/train.txt").write_text("BUSI_0.jpg")
    _, mask = SegmentationDataset(root, "BUSI", "train")[0]
    expected = Image.fromarray(np.rot90(disc(0), -1).copy()).resize((224, 224), Image.Resampling.NEAREST)
    assert np.count_nonzero(mask.numpy() != np.asarray(expected)) < 0.02 * np.asarray(expected).sum()
