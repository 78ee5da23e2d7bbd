"""ht-kernels prepare for images with a table of captions, as the published code has MedPix, PMC-CURD and ROCOv2."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.layout import picture, save
from ht_kernels.cli import main
from ht_kernels.data import CaptionDataset
from ht_kernels.data.captions import read_captions
from ht_kernels.data.prepare import prepare_captions
from ht_kernels.errors import InputError


def colour(seed: int) -> np.ndarray:
    return np.stack([picture(seed), picture(seed + 100), picture(seed + 200)], -1)


def make(folder: Path) -> Path:
    """Twenty images in ``images``, in colour, each with a caption; image 0 has two, and image 3 one twice."""
    rows = [("filename", "Caption", "source")]
    for i in range(20):
        save(folder / f"images/{i}.jpg", colour(i))
        rows.append((f"{i}.jpg", f"a mass, number {i}", "x"))
    rows += [("0.jpg", "another caption", "x"), ("3.jpg", "a mass,  number 3", "x")]
    write(folder / "medpix_dataset.csv", rows)
    return folder


def write(path: Path, rows: list[tuple[str, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def add(folder: Path, *rows: tuple[str, str]) -> None:
    with (folder / "medpix_dataset.csv").open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows((*row, "x") for row in rows)


def read(output: Path) -> dict[str, tuple[str, ...]]:
    return read_captions(output / "contrastive/MedPix/captions.csv")


def test_a_table_beside_its_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = make(tmp_path / "in"), tmp_path / "out"
    command = ["prepare", str(source), "--dataset", "captions", "--name", "MedPix", "--output", str(output)]
    assert main(command) == 0
    assert "MedPix: 20 images: 14 train, 2 val, 4 test" in capsys.readouterr().out
    captions = read(output)
    assert captions["medpix_0.jpg"] == ("a mass, number 0", "another caption")
    assert captions["medpix_3.jpg"] == ("a mass, number 3",) and len(captions) == 20
    sets = [CaptionDataset(output, "MedPix", split, lambda image: image) for split in ("train", "val", "test")]
    assert sum(map(len, sets)) == 20
    image, found = sets[0][0]
    assert found == captions[sets[0].names[0]] and image.mode == "RGB"
    number = sets[0].names[0].removeprefix("medpix_")
    assert (output / "all/images" / sets[0].names[0]).read_bytes() == (source / "images" / number).read_bytes()
    for line in (output / "MedPix.sha256").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((output / name).read_bytes()).hexdigest() == digest
    again = prepare_captions(source / "medpix_dataset.csv", "MedPix", tmp_path / "again", seed=1)
    assert again.checksums.read_bytes() != (output / "MedPix.sha256").read_bytes()
    assert not (output / "segmentation").exists() and not (output / "all/masks").exists()


def test_images_of_one_name_in_two_folders_stay_two(tmp_path: Path) -> None:
    source = make(tmp_path / "in")
    for folder, seed in (("left", 30), ("right", 31)):
        save(source / f"images/{folder}/0.jpg", colour(seed))
        save(source / f"images/{folder}/{seed}.jpg", colour(seed + 10))
    add(source, ("left/0.jpg", "on the left"), ("images/right/0.jpg", "on the right"), ("30.jpg", "found below"))
    add(source, ("in/images/right/31.jpg", "with the folder above"))
    prepare_captions(source, "MedPix", tmp_path / "out")
    captions = read(tmp_path / "out")
    assert captions["medpix_left_0.jpg"] == ("on the left",)
    assert captions["medpix_right_0.jpg"] == ("on the right",)
    assert captions["medpix_0.jpg"] == ("a mass, number 0", "another caption")
    assert captions["medpix_left_30.jpg"] == ("found below",)
    assert captions["medpix_right_31.jpg"] == ("with the folder above",)
    for new, old in (("left_0", "left/0"), ("right_0", "right/0")):
        copied = tmp_path / f"out/all/images/medpix_{new}.jpg"
        assert copied.read_bytes() == (source / f"images/{old}.jpg").read_bytes()


def test_what_is_left_out_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make(tmp_path / "in")
    (source / "images/5.jpg").write_bytes(b"none")
    for folder in ("left", "right"):
        save(source / f"images/{folder}/twice.jpg", colour(50 + len(folder)))
    add(source, ("missing.jpg", "a caption"), ("6.jpg", "  "), ("twice.jpg", "of which?"), ("far/7.jpg", "elsewhere"))
    report = prepare_captions(source, "MedPix", tmp_path / "out")
    assert report.left_out.keys() == {"missing.jpg", "6.jpg, row 25", "twice.jpg", "far/7.jpg", "images/5.jpg"}
    for name, why in (
        ("missing.jpg", "there is no such image below"),
        ("6.jpg, row 25", "its caption is empty"),
        ("twice.jpg", "it is images/left/twice.jpg and images/right/twice.jpg; write the folder in the table"),
        ("far/7.jpg", "there is no such image below"),
        ("images/5.jpg", "cannot be read as an image"),
    ):
        assert why in report.left_out[name]
    captions = read(tmp_path / "out")
    assert captions["medpix_6.jpg"] == ("a mass, number 6",) and captions["medpix_7.jpg"] == ("a mass, number 7",)
    assert len(captions) == 19


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    source, elsewhere = make(tmp_path / "in"), tmp_path / "elsewhere"
    save(elsewhere / "far.jpg", colour(20))
    (source / "images/up").symlink_to("..")
    (source / "images/linked").symlink_to(elsewhere)
    (elsewhere / "here").symlink_to(".")
    add(source, ("far.jpg", "an image behind a link"))
    report = prepare_captions(source, "MedPix", tmp_path / "out")
    assert not report.left_out and len(read(tmp_path / "out")) == 21


def test_small_things_on_black_do_not_look_alike(tmp_path: Path) -> None:
    """Few bits of their hashes are set, so few differ; but a brighter one of the same is a near duplicate."""
    numbers, rows = np.random.default_rng(0), [("filename", "Caption")]
    for i in range(60):
        pixels = np.zeros((128, 160), np.uint8)
        y, x, height, width = *numbers.integers(0, 80, 2), *numbers.integers(20, 90, 2)
        pixels[y : y + height, x : x + width] = 150
        save(tmp_path / f"in/{i}.png", pixels)
        rows.append((f"{i}.png", f"a nodule, number {i}"))
    save(tmp_path / "in/brighter.png", pixels // 15 * 16)
    write(tmp_path / "in/table.csv", [*rows, ("brighter.png", "a nodule")])
    report = prepare_captions(tmp_path / "in", "CT", tmp_path / "out")
    assert ("ct_59.png", "ct_brighter.png") in report.near and len(report.near) < 60
    assert report.splits["val"] >= 3 and report.splits["test"] >= 6


def test_images_that_all_look_alike_cannot_be_split_and_the_message_says_so(tmp_path: Path) -> None:
    for i in range(5):
        save(tmp_path / f"in/{i}.png", picture(0) // 2 + np.uint8(i))
    write(tmp_path / "in/table.csv", [("filename", "Caption"), *((f"{i}.png", "a cyst") for i in range(5))])
    with pytest.raises(InputError, match=r"5 images leave the val split empty; .*look alike were kept together, in 1 "):
        prepare_captions(tmp_path / "in", "CT", tmp_path / "out")


def test_images_with_the_same_pixels_are_one_with_all_captions(tmp_path: Path) -> None:
    source = make(tmp_path / "in")
    (source / "images/copy.jpg").write_bytes((source / "images/4.jpg").read_bytes())
    near = np.clip(np.asarray(Image.open(source / "images/8.jpg")).astype(int) + 3, 0, 255).astype(np.uint8)
    save(source / "images/near.jpg", near)
    add(source, ("copy.jpg", "words for the copy"), ("near.jpg", "nearly the same"))
    report = prepare_captions(source, "MedPix", tmp_path / "out")
    assert report.exact == [("medpix_copy.jpg", "medpix_4.jpg")] and report.near == [
        ("medpix_8.jpg", "medpix_near.jpg")
    ]
    assert read(tmp_path / "out")["medpix_4.jpg"] == ("a mass, number 4", "words for the copy")
    lists = [(tmp_path / f"out/contrastive/MedPix/{split}.txt").read_text() for split in ("train", "val", "test")]
    assert [("_8.jpg" in text) == ("near.jpg" in text) for text in lists] == [True] * 3


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: (s / "medpix_dataset.csv").unlink(), "has no CSV file, expected one of filename,Caption"),
        (lambda s: write(s / "other.csv", []), "several CSV files, medpix_dataset.csv, other.csv, expected one"),
        (lambda s: add(s, ("a.jpg", "words", "more")), "row 24: .* came, expected an image's name and a caption"),
        (
            lambda s: [p.unlink() for p in (s / "images").iterdir()],
            "no image with a caption that can be used; the first",
        ),
        (lambda s: [(s / f"images/{i}.jpg").unlink() for i in range(1, 20)], "leave the val split empty"),
        (
            lambda s: [(s / "images/1.jpg").rename(s / "1.jpg"), add(s, ("x/1.jpg", "left"), ("y/1.jpg", "right"))],
            "row 25: y/1.jpg and x/1.jpg are images in different folders, and there is",
        ),
        (
            lambda s: [
                *(save(s / f"images/{name}", colour(60 + name.index("/"))) for name in ("x_1/2.jpg", "x/1_2.jpg")),
                add(s, ("x_1/2.jpg", "one"), ("x/1_2.jpg", "other")),
            ],
            "would both become medpix_x_1_2.jpg",
        ),
    ],
)
def test_bad_tables(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    source = make(tmp_path / "in")
    damage(source)
    with pytest.raises(InputError, match=message) as caught:
        prepare_captions(source, "MedPix", tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_options_that_do_not_go_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = str(make(tmp_path / "in")), ["--output", str(tmp_path / "out")]
    for words, expected in (
        (["--dataset", "captions"], "captions need a name for the data set: give it with --name"),
        (["--dataset", "captions", "--name", "a/b"], "the name 'a/b' of the data set came, expected letters"),
        (["--dataset", "captions", "--name", "MedPix", "--header"], "--header is for folder, "),
        (["--dataset", "busi", "--name", "MedPix"], "--name is for folder, nnunet, coco, captions; busi does"),
    ):
        assert main(["prepare", source, *words, *output]) == 2
        assert expected in capsys.readouterr().err
    assert main(["prepare", str(tmp_path / "none"), "--dataset", "captions", "--name", "MedPix", *output]) == 2
    assert "there is no file or folder" in capsys.readouterr().err


def test_a_table_in_the_layout_does_not_mix_folders_up(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_text("filename,Caption\nx/1.png,a cyst\n1.png,the same image\ny/1.png,a mass\n")
    with pytest.raises(InputError, match=r"row 4: y/1.png and x/1.png are images in different folders, and all/images"):
        read_captions(path)
