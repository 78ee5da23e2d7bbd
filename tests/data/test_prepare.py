"""Preparation of downloads: made-up ones of each data set's form."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import ROOT
from helpers.layout import disc, picture, save
from ht_kernels.cli import main
from ht_kernels.data import ClassificationDataset, SegmentationDataset
from ht_kernels.data.layout import SPLITS
from ht_kernels.data.prepare import prepare
from ht_kernels.data.prepare.duplicates import NEAR, difference_hash, near_duplicates
from ht_kernels.data.prepare.splits import split_groups
from ht_kernels.errors import InputError

WHITE = np.uint8(255)


def make_busi(source: Path) -> Path:
    """20 benign, 10 malignant, 2 normal; benign 3 is benign 1 again, malignant 2 nearly malignant 1."""
    for label, (kind, count) in enumerate({"benign": 20, "malignant": 10, "normal": 2}.items()):
        for i in range(1, count + 1):
            seed = 100 * label + i
            save(source / kind / f"{kind} ({i}).png", picture(seed))
            save(source / kind / f"{kind} ({i})_mask.png", disc(seed) * WHITE)
    save(source / "benign/benign (2)_mask_1.png", disc(999) * WHITE)
    save(source / "benign/benign (3).png", picture(1), compress_level=0)
    near = np.clip(picture(101).astype(int) + 9, 0, 255).astype(np.uint8)
    save(source / "malignant/malignant (2).png", near)
    return source


def make_tn3k(source: Path, fold: bool = True) -> Path:
    """16 images to train and validate on, 4 to test; trainval 5 is nearly test 2, test 3 exactly trainval 7."""
    for part, count, first in (("trainval", 16, 0), ("test", 4, 100)):
        rows = []
        for i in range(count):
            save(source / f"{part}-image/{i:04}.jpg", picture(first + i), quality=95)
            save(source / f"{part}-mask/{i:04}.jpg", disc(first + i) * WHITE, quality=80)
            rows.append(f"{i:04}.jpg,{i % 2}\n")
        (source / f"label4{part}.csv").write_text("".join(rows))
    save(source / "trainval-image/0005.jpg", picture(102), quality=70)
    (source / "test-image/0003.jpg").write_bytes((source / "trainval-image/0007.jpg").read_bytes())
    if fold:
        numbers = {"train": list(range(12)), "val": list(range(12, 16))}
        (source / "tn3k-trainval-fold0.json").write_text(json.dumps(numbers))
    return source


def make_ddti(source: Path) -> Path:
    """12 patients, patients 1 and 2 with two images; the outline of patient 3 is cut off, that of 4 missing."""
    source.mkdir(parents=True)
    square = [{"x": x, "y": y} for x, y in ((10, 10), (30, 10), (30, 25), (10, 25))]
    other = [{"x": x, "y": y} for x, y in ((40, 5), (48, 5), (48, 12))]
    for case in range(1, 13):
        marks = ""
        for image in range(1, 3 if case < 3 else 2):
            save(source / f"{case}_{image}.jpg", picture(10 * case + image))
            regions = [{"points": square, "annotation": {}, "regionType": "freehand"}]
            if case == 1:
                regions.append({"points": other, "annotation": {}, "regionType": "freehand"})
            svg = json.dumps(regions)
            svg = svg[:-9] if case == 3 else "" if case == 4 else svg
            marks += f"<mark><image>{image}</image><svg>{svg}</svg></mark>" if svg else ""
        (source / f"{case}.xml").write_text(f"<case><number>{case}</number><tirads>2</tirads>{marks}</case>")
    return source


MAKE = {"busi": make_busi, "tn3k": make_tn3k, "ddti": make_ddti}


def names(root: Path, dataset: str) -> dict[str, list[str]]:
    return {split: SegmentationDataset(root, dataset, split).names for split in SPLITS}


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


def test_busi(tmp_path: Path) -> None:
    report = prepare("busi", make_busi(tmp_path / "in"), tmp_path / "out")
    assert sum(report.splits.values()) == 29 and report.splits["train"] in (19, 20, 21)
    assert report.exact == [("busi_benign_003.png", "busi_benign_001.png")]
    assert report.near == [("busi_malignant_001.png", "busi_malignant_002.png")]
    assert report.left_out["normal (1).png"] == "normal tissue, no lesion" and len(report.left_out) == 3
    (one,) = [s for s, n in names(tmp_path / "out", "BUSI").items() if "busi_malignant_001.png" in n]
    assert "busi_malignant_002.png" in names(tmp_path / "out", "BUSI")[one]
    folder = tmp_path / "out/all"
    assert np.array_equal(read(folder / "images/busi_benign_002.png"), picture(2))
    assert np.array_equal(read(folder / "masks/busi_benign_002.png"), (disc(2) | disc(999)) * WHITE)
    for split in SPLITS:
        dataset = ClassificationDataset(tmp_path / "out", "BUSI", split)
        assert dataset.names == names(tmp_path / "out", "BUSI")[split]
        assert all(("malignant" in name) == label for name, label in zip(dataset.names, dataset.labels, strict=True))
        assert 0 < sum(dataset.labels) < len(dataset)  # both classes in every split


def test_busi_as_it_is_unpacked(tmp_path: Path) -> None:
    make_busi(tmp_path / "in/Dataset_BUSI_with_GT")
    assert sum(prepare("busi", tmp_path / "in", tmp_path / "out").splits.values()) == 29


def test_tn3k(tmp_path: Path) -> None:
    report = prepare("tn3k", make_tn3k(tmp_path / "in"), tmp_path / "out")
    found = names(tmp_path / "out", "TN3K")
    assert found["test"] == [f"tn3k_test_{i:04}.png" for i in range(4)]
    assert found["train"] == [f"tn3k_trainval_{i:04}.png" for i in range(12) if i not in (5, 7)]
    assert found["val"] == [f"tn3k_trainval_{i:04}.png" for i in range(12, 16)]
    assert report.exact == [("tn3k_trainval_0007.png", "tn3k_test_0003.png")]
    assert report.left_out["tn3k_trainval_0005.png"] == "nearly the same as an image of the test split"
    assert np.array_equal(read(tmp_path / "out/all/masks/tn3k_test_0001.png"), disc(101) * WHITE)
    assert ClassificationDataset(tmp_path / "out", "TN3K", "test").labels == [0, 1, 0, 1]


def test_tn3k_without_folds_and_labels(tmp_path: Path) -> None:
    source = make_tn3k(tmp_path / "in", fold=False)
    (source / "label4test.csv").unlink()
    report = prepare("tn3k", source, tmp_path / "out")
    assert report.splits["test"] == 4 and report.splits["val"] > 0 and sum(report.splits.values()) == 18
    assert not (tmp_path / "out/classification").exists()


def test_ddti(tmp_path: Path) -> None:
    report = prepare("ddti", make_ddti(tmp_path / "in"), tmp_path / "out")
    assert sum(report.splits.values()) == 12
    assert report.left_out["4_1.jpg"] == "no outline in 4.xml" and len(report.left_out) == 2
    assert report.left_out["3_1.jpg"].startswith("the outline in 3.xml is damaged: ")
    for patient in ("1", "2"):
        (split,) = {s for s, found in names(tmp_path / "out", "DDTI").items() for n in found if f"ddti_{patient}_" in n}
        assert len([n for n in names(tmp_path / "out", "DDTI")[split] if f"ddti_{patient}_" in n]) == 2
    mask = read(tmp_path / "out/all/masks/ddti_1_1.png") > 0
    assert mask[10:26, 10:31].all() and mask[6, 46] and not mask[30:].any()
    assert not (read(tmp_path / "out/all/masks/ddti_2_1.png") > 0)[6, 46]


@pytest.mark.parametrize("dataset", MAKE)
def test_checksums_and_seeds(dataset: str, tmp_path: Path) -> None:
    source = MAKE[dataset](tmp_path / "in")
    contents = []
    for output, seed in (("a", 1), ("b", 1), ("c", 2)):
        report = prepare(dataset, source, tmp_path / output, seed)
        lines = report.checksums.read_text().splitlines()
        for line in lines:
            digest, name = line.split("  ")
            assert hashlib.sha256((tmp_path / output / name).read_bytes()).hexdigest() == digest
        files = [p for p in (tmp_path / output).rglob("*") if p.is_file() and p != report.checksums]
        assert len(files) == len(lines)
        contents.append(lines)
    assert contents[0] == contents[1]
    assert (contents[0] == contents[2]) == (dataset == "tn3k")  # whose splits are given


def test_data_sets_share_a_folder(tmp_path: Path) -> None:
    for dataset, make in MAKE.items():
        prepare(dataset, make(tmp_path / dataset), tmp_path / "out")
    for dataset in ("BUSI", "TN3K", "DDTI"):
        for split in SPLITS:
            images = SegmentationDataset(tmp_path / "out", dataset, split, 32)
            assert all(images[i][1].any() for i in range(len(images)))


def test_hashes_find_what_looks_the_same() -> None:
    images = [Image.fromarray(picture(seed, (200, 260))) for seed in range(30)]
    hashes = [difference_hash(image) for image in images]
    assert near_duplicates(hashes) == []
    bigger = difference_hash(images[3].resize((390, 300)))
    brighter = difference_hash(images[5].point(lambda value: 20 + 0.8 * value))
    assert near_duplicates([*hashes, bigger, brighter]) == [(3, 30), (5, 31)]
    assert NEAR < 64


def test_groups_stay_together() -> None:
    generator = np.random.default_rng(0)
    groups = generator.integers(0, 60, 300).tolist()
    labels = [group % 2 for group in groups]
    splits = split_groups(groups, labels, seed=0)
    for group in set(groups):
        assert len({split for split, other in zip(splits, groups, strict=True) if other == group}) == 1
    for label in (0, 1):
        mine = [split for split, other in zip(splits, labels, strict=True) if other == label]
        for split, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
            assert mine.count(split) / len(mine) == pytest.approx(share, abs=0.05)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_busi(tmp_path / "in")
    assert main(["prepare", "--dataset", "busi", str(source), "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "BUSI: 29 images: " in said and "1 exact duplicates" in said and "BUSI.sha256" in said
    assert "busi_benign_003.png = busi_benign_001.png" in said
    assert "busi_malignant_001.png ~ busi_malignant_002.png" in said and "normal (1).png: normal tissue" in said


def b_renamed(path: Path, name: bytes) -> None:
    path.rename(path.with_name(os.fsdecode(name)))


@pytest.mark.parametrize(
    ("dataset", "damage", "message"),
    [
        ("busi", lambda s: (s / "benign/benign (4)_mask.png").unlink(), r"benign \(4\).png has no mask; expected"),
        ("busi", lambda s: save(s / "benign/benign (4)_mask.png", disc(0, (9, 9))), r"\(4\)_mask.png is 9x9 pixels"),
        ("busi", lambda s: (s / "benign/benign (4).png").write_text("x"), r"\(4\).png cannot be read as an image"),
        ("busi", lambda s: (s / "malignant").rename(s / "bad"), "no folder .*malignant; expected BUSI's folders"),
        ("tn3k", lambda s: (s / "test-mask").rename(s / "bad"), "no folder .*test-mask; expected TN3K's"),
        ("tn3k", lambda s: (s / "test-mask/0001.jpg").unlink(), "the mask .*test-mask/0001.jpg of .* is missing"),
        (
            "tn3k",
            lambda s: save(s / "test-mask/0001.jpg", disc(0, (9, 9))),
            "test-mask/0001.jpg is 9x9 pixels, but its image",
        ),
        ("tn3k", lambda s: (s / "tn3k-trainval-fold0.json").write_text("{"), "fold0.json is no fold of TN3K"),
        (
            "tn3k",
            lambda s: (s / "tn3k-trainval-fold0.json").write_text('{"train": [0], "val": []}'),
            "fold0.json does not name 0001.jpg",
        ),
        ("tn3k", lambda s: (s / "label4test.csv").write_text("0000.jpg,0"), "label4test.csv has no label for 0001.jpg"),
        ("tn3k", lambda s: (s / "label4test.csv").write_text("0000.jpg,7"), "label 7, expected one of"),
        ("ddti", lambda s: (s / "5.XML").write_text("<case>"), "5.xml and 5.XML beside it are the same by name"),
        (
            "ddti",
            lambda s: [p.write_text("<case>") for p in s.glob("*.xml")],
            "has no image that can be used; the first: 1",
        ),
        (
            "ddti",
            lambda s: [p.unlink() for p in s.glob("*.jpg")],
            "no image that can be used; the first: 1.xml: there is no im",
        ),
        ("busi", lambda s: save(s / "benign/benign (04).png", picture(4)), r"\(04\).png has no mask"),
        (
            "tn3k",
            lambda s: [save(s / "test-image/0001.png", picture(77)), (s / "label4test.csv").unlink()],
            "would both become tn3k_test_0001.png; rename",
        ),
        ("tn3k", lambda s: save(s / "test-mask/0001.jpg", picture(3)), "the mask .*test-mask/0001.jpg has .* values"),
        ("tn3k", lambda s: (s / "label4test.csv").write_text("0000.jpg,-1"), "has label -1, expected one of"),
        ("tn3k", lambda s: (s / "tn3k-trainval-fold0.json").write_text("[" * 99999), "fold0.json is no fold of TN3K"),
        ("tn3k", lambda s: [p.unlink() for p in (s / "test-image").iterdir()], "test-image has no images"),
        (
            "tn3k",
            lambda s: b_renamed(s / "test-image/0001.jpg", b"\xf3.jpg"),
            r"the file .xf3.jpg in .* is not UTF-8; rename",
        ),
        ("ddti", lambda s: [p.unlink() for p in s.glob("*.xml")], "has no XML files"),
    ],
)
def test_bad_downloads(
    dataset: str,
    damage: Callable[[Path], object],
    message: str,
    tmp_path: Path,
) -> None:
    source = MAKE[dataset](tmp_path / "in")
    damage(source)
    with pytest.raises(InputError, match=message) as caught:
        prepare(dataset, source, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_bad_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    command = ["prepare", "--dataset", "busi"]
    assert main([*command, str(tmp_path / "missing"), "--output", str(tmp_path / "out")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    source = make_busi(tmp_path / "in")
    assert main([*command, str(source), "--output", str(tmp_path / "file")]) == 2
    assert "is a file, expected a folder" in capsys.readouterr().err
    with pytest.raises(InputError, match="'lidc' is unknown; expected one of busi, tn3k, ddti"):
        prepare("lidc", source, tmp_path / "out")
    few = tmp_path / "few"
    for kind in ("benign", "malignant"):
        save(few / kind / f"{kind} (1).png", picture(len(kind)))
        save(few / kind / f"{kind} (1)_mask.png", disc(0) * WHITE)
    with pytest.raises(InputError, match="leave the val split empty"):
        prepare("busi", few, tmp_path / "out")


def litter(folder: Path) -> None:
    """What macOS and Windows leave beside each file."""
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7")
        for name in (".DS_Store", "Thumbs.db", ".hidden.png", "desktop.ini"):
            path.with_name(name).write_bytes(b"\0")


def upper(folder: Path) -> None:
    for path in [path for path in folder.rglob("*") if path.suffix in (".jpg", ".png", ".xml")]:
        path.rename(path.with_suffix(path.suffix.upper()))


def decompose(folder: Path, kind: str) -> None:
    """An accent in the name of each file: decomposed in images, composed elsewhere."""
    for path in [path for path in folder.rglob("*") if path.suffix == ".jpg"]:
        form = "NFD" if kind in path.parent.name else "NFC"
        path.rename(path.with_name(unicodedata.normalize(form, f"ó{path.name}")))


@pytest.mark.parametrize("dataset", MAKE)
@pytest.mark.parametrize("change", [litter, upper])
def test_folders_of_other_systems(dataset: str, change: Callable[[Path], None], tmp_path: Path) -> None:
    source = MAKE[dataset](tmp_path / "in")
    expected = prepare(dataset, source, tmp_path / "expected")
    change(source)
    found = prepare(dataset, source, tmp_path / "found")
    litter(tmp_path / "found/segmentation")
    assert found.splits == expected.splits and len(found.left_out) == len(expected.left_out)
    assert found.checksums.read_bytes() == expected.checksums.read_bytes()


def test_accents_in_names(tmp_path: Path) -> None:
    source = make_tn3k(tmp_path / "in", fold=False)
    decompose(source, "image")
    for file in source.glob("*.csv"):
        rows = file.read_text().splitlines()
        file.write_text("".join(f"ó{row}\n" for row in rows), encoding="utf-8")
    report = prepare("tn3k", source, tmp_path / "out")
    assert sum(report.splits.values()) == 18
    test = (tmp_path / "out/segmentation/TN3K/test.txt").read_text(encoding="utf-8")
    assert test == "".join(f"tn3k_test_ó{i:04}.png\n" for i in range(4))
    assert ClassificationDataset(tmp_path / "out", "TN3K", "test").labels == [0, 1, 0, 1]


PROGRAM = """
import sys
from ht_kernels.data import SegmentationDataset
from ht_kernels.data.prepare import prepare
assert sys.getfilesystemencoding() == "ascii"
prepare("tn3k", sys.argv[1], sys.argv[2])
print([tuple(SegmentationDataset(sys.argv[2], "TN3K", "test", 32)[0][0].shape)])
"""


def test_ascii_locale(tmp_path: Path) -> None:
    """Names and text files are UTF-8 even where the locale knows no such letters."""
    source = make_tn3k(tmp_path / "in", fold=False)
    decompose(source, "mask")
    for file in source.glob("*.csv"):
        file.unlink()
    environment = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM, str(source), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[(3, 32, 32)]\n"
    expected = prepare("tn3k", source, tmp_path / "expected")
    assert (tmp_path / "out/TN3K.sha256").read_bytes() == expected.checksums.read_bytes()
    assert "ó" in expected.checksums.read_text(encoding="utf-8")


def test_tables_are_as_the_published_code_reads_them(tmp_path: Path) -> None:
    source = make_tn3k(tmp_path / "in")
    for header, first in ((False, "tn3k_trainval_0000.png,0"), (True, "image,label")):
        prepare("tn3k", source, tmp_path / "out", header=header)
        lines = (tmp_path / "out/classification/TN3K/labels.csv").read_text().splitlines()
        assert first in lines and ("image,label" in lines) == header
        assert ClassificationDataset(tmp_path / "out", "TN3K", "test").labels == [0, 1, 0, 1]
    command = ["prepare", str(source), "--dataset", "tn3k", "--output", str(tmp_path / "command"), "--header"]
    assert main(command) == 0
    assert (tmp_path / "command/classification/TN3K/labels.csv").read_text().startswith("image,label\n")


def outline(*points: tuple[object, object]) -> str:
    text = ", ".join(f'{{"x": {x}, "y": {y}}}' for x, y in points)
    return f'<case><mark><image>1</image><svg>[{{"points": [{text}]}}]</svg></mark></case>'


BOMB = "<!DOCTYPE case [<!ENTITY a 'aaaaaaaaaa'>" + "".join(
    f"<!ENTITY {name} '{f'&{before};' * 10}'>" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("<case>", "5.xml cannot be read as XML: no element found"),
        ("", "5.xml cannot be read as XML: no element found"),
        ("<case \0>", "5.xml cannot be read as XML: not well-formed"),
        (f"{BOMB}]><case><number>&i;</number></case>", "5.xml cannot be read as XML: it declares a document type"),
        ("<case/>", "no outline in 5.xml"),
        (outline((10, 10), (20, 10), (20, "NaN")), "the outline in 5.xml is damaged: it has a point at 20, nan"),
        (outline((10, 10), (20, 10), ("-Infinity", 20)), "the outline in 5.xml is damaged: it has a point at -inf, 20"),
        (outline((10, 10), (20, 10), ("1" * 400, 20)), "the outline in 5.xml is damaged: int too large"),
        (outline((10, 10), (20, 10), ("null", 20)), "the outline in 5.xml is damaged: it is no list of regions"),
        (
            outline((10, 10), (20, 10), (1e9, 20)),
            "its outline has a point at 1e+09, 20, far outside of its 52x40 pixels",
        ),
        (outline((10, 10), (20, 10), (20, -5)), "its outline has a point at 20, -5, far outside"),
        (outline((10, 10), (20, 10)), "no outline in 5.xml"),
        (f"<case><mark><image>1</image><svg>{'[' * 99999}</svg></mark></case>", "the outline in 5.xml is damaged: "),
    ],
)
def test_a_damaged_case_of_ddti_is_left_out(content: str, why: str, tmp_path: Path) -> None:
    source = make_ddti(tmp_path / "in")
    (source / "5.xml").write_text(content)
    report = prepare("ddti", source, tmp_path / "out")
    assert sum(report.splits.values()) == 11
    assert report.left_out["5_1.jpg"].startswith(why) and "\n" not in report.left_out["5_1.jpg"]


def test_an_outline_may_touch_the_border(tmp_path: Path) -> None:
    source = make_ddti(tmp_path / "in")
    (source / "5.xml").write_text(outline((-2, 10), (54, 10), (20, 42)))
    report = prepare("ddti", source, tmp_path / "out")
    assert sum(report.splits.values()) == 12 and read(tmp_path / "out/all/masks/ddti_5_1.png")[10].all()


def test_cases_of_ddti_that_lack_a_part(tmp_path: Path) -> None:
    source = make_ddti(tmp_path / "in")
    (source / "5.xml").unlink()
    (source / "6_1.jpg").unlink()
    (source / "2_2.jpg").unlink()
    report = prepare("ddti", source, tmp_path / "out")
    assert report.left_out["5_1.jpg"] == "there is no 5.xml"
    assert report.left_out["6.xml"] == "there is no image of this patient"
    assert report.left_out["2_2.jpg"] == "it is in 2.xml, and missing"
    assert sum(report.splits.values()) == 9


def test_images_of_16_bits(tmp_path: Path) -> None:
    source = make_busi(tmp_path / "in")
    for kind in ("benign/benign (7)", "malignant/malignant (7)"):
        gray = picture(7 if "benign" in kind else 107)
        save(source / f"{kind}.png", gray.astype(np.uint16) * 257)
    prepare("busi", source, tmp_path / "out")
    assert np.array_equal(read(tmp_path / "out/all/images/busi_benign_007.png"), picture(7))
