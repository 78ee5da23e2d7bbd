"""Datasets in the published layout: what they give, and what they say of bad data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ht_kernels as ht
from helpers.layout import SPLITS, disc, make_layout, picture, save
from ht_kernels.data import ClassificationDataset, SegmentationDataset
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
    assert torch.equal(image[0], preprocess(picture(1), (224, 224))[0, 0] / 255)
    expected = Image.fromarray(disc(1)).resize((224, 224), Image.Resampling.NEAREST)
    assert np.array_equal(mask.numpy(), np.asarray(expected)) and set(mask.unique().tolist()) == {0, 1}
    small = SegmentationDataset(str(root), "BUSI", "val", image_size=64)[0]
    assert small[0].shape == (3, 64, 64) and small[1].shape == (64, 64)


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
    assert torch.equal(image[0], preprocess(color, (224, 224))[0, 0] / 255)


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
        ("BUSI_0.png,benign\n", "row 1: BUSI_0.png has label 'benign', expected a number from 0 on"),
        ("BUSI_0.png\n", "expected an image's name and a number"),
        ("BUSI_0.png,-1\n", "row 1: BUSI_0.png has label '-1', expected a number from 0 on"),
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
    with pytest.raises(InputError, match="holds no classification data; see ht-kernels prepare"):
        ClassificationDataset(tmp_path / "elsewhere", "BUSI", "train")
    with pytest.raises(InputError, match="split 'valid' is unknown; expected one of train, val, test"):
        SegmentationDataset(root, "BUSI", "valid")


def test_it_is_a_part_of_the_package() -> None:
    assert ht.data.SegmentationDataset is SegmentationDataset
