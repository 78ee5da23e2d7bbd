"""ht-kernels prepare folder: a user's own images, with masks or labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.clips import write_dicom
from helpers.layout import disc, picture, save
from ht_kernels.cli import main
from ht_kernels.data import ClassificationDataset, SegmentationDataset
from ht_kernels.data.layout import SPLITS, read_pairs
from ht_kernels.data.prepare import Own, Report, prepare_own
from ht_kernels.data.prepare.found import Found
from ht_kernels.data.prepare.pairs import pair, pair_within
from ht_kernels.errors import InputError

WHITE = np.uint8(255)
COUNT = 12

LAYOUTS = {
    "the same names": ("a/{}.png", "b/{}.png"),
    "an ending of masks": ("a/{}.png", "b/{}_mask.png"),
    "an ending of no list": ("a/case {}.jpg", "b/case {} by Dr. X.png"),
    "a beginning of masks": ("a/{}.bmp", "b/seg-{}.png"),
    "both": ("a/{}.png", "b/the_{}_label.tiff"),
    "names of both kinds": ("a/image_{}.png", "b/mask_{}.png"),
    "endings of both kinds": ("a/{}_0000.png", "b/{}_gt.png"),
    "folders of patients": ("a/p{}/scan.png", "b/p{}/scan.png"),
    "masks not in folders": ("a/p/q{}/{}.png", "b/{}_mask.png"),
    "masks beside images": ("a/{}.png", "a/{}_mask.png"),
    "masks beside images in folders": ("a/p{}/scan.png", "a/p{}/scan-seg.png"),
    "masks in a folder of images": ("a/{}.png", "a/masks/{}.png"),
}


def make(root: Path, image: str = "a/{}.png", mask: str = "b/{}.png", count: int = COUNT) -> Path:
    """Images and masks whose names have a number, from 1 on."""
    for i in range(1, count + 1):
        save(root / image.replace("{}", str(i)), picture(i))
        save(root / mask.replace("{}", str(i)), disc(i) * WHITE)
    return root


def run(root: Path, **options: object) -> Report:
    own = Own("own", **{name: options.pop(name) for name in ("classes", "groups") if name in options})  # type: ignore[arg-type]
    return prepare_own(own, root / "out", root / "a", root / "b", **options)  # type: ignore[arg-type]


def names(root: Path, task: str = "segmentation", name: str = "own") -> dict[str, list[str]]:
    return {split: (root / f"out/{task}/{name}/{split}.txt").read_text().split("\n")[:-1] for split in SPLITS}


def every(root: Path, task: str = "segmentation") -> list[str]:
    return sorted(name for found in names(root, task).values() for name in found)


def mask_of(root: Path, name: str) -> np.ndarray:
    with Image.open(root / "out/all/masks" / name) as image:
        assert image.mode == "L"
        return np.asarray(image)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_are_found_by_name(layout: str, tmp_path: Path) -> None:
    image, mask = LAYOUTS[layout]
    make(tmp_path, image, mask)
    masks = tmp_path / ("b" if mask.startswith("b/") else "a/masks" if "masks/" in mask else "a")
    report = prepare_own(Own("own"), tmp_path / "out", tmp_path / "a", masks)
    assert sum(report.splits.values()) == COUNT and not report.left_out
    if masks == tmp_path / "a":
        assert prepare_own(Own("own"), tmp_path / "out", tmp_path / "a").splits == report.splits
    for split in SPLITS:
        data = SegmentationDataset(tmp_path / "out", "own", split, 32)
        assert len(data) == report.splits[split] and data[0][1].any()
    for i in range(1, COUNT + 1):
        new = "own_" + image.removeprefix("a/").replace("{}", str(i)).replace("/", "_")
        assert np.array_equal(mask_of(tmp_path, str(Path(new).with_suffix(".png"))), disc(i) * WHITE)


def found(*places: str) -> list[Found]:
    return [Found(Path("root", place), tuple(place.split("/")[:-1]), Path(place).stem) for place in places]


def test_numbers_without_zeros_are_not_mixed_up() -> None:
    images = found(*(f"{i}.png" for i in range(120)))
    masks = found(*(f"{i}_1.png" for i in range(110)))
    pairs = pair(images, masks)
    assert {(image.stem, mask.stem) for image, mask in pairs.pairs} == {(f"{i}", f"{i}_1") for i in range(110)}
    assert [image.stem for image in pairs.images] == [str(i) for i in range(110, 120)]
    assert pair_within(images).pairs == [] and pair_within(found("a.png", "a2.png", "b.png")).pairs == []


def test_what_has_no_partner_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, mask="b/{}_mask.png", count=25)
    for i in range(1, 13):
        (tmp_path / f"b/{i}_mask.png").unlink()
    save(tmp_path / "b/lost_mask.png", disc(1) * WHITE)
    save(tmp_path / "a/13.jpg", picture(400))  # which of 13.png and 13.jpg is meant?
    command = ["prepare", "folder", "--images", str(tmp_path / "a"), "--masks", str(tmp_path / "b")]
    assert main([*command, "--output", str(tmp_path / "out"), "--name", "mine"]) == 0
    said = capsys.readouterr().out
    assert f"train --task segmentation {tmp_path}/out --dataset mine --from breast --epochs 10 --output run" in said
    assert "mine: 12 images: " in said and "masks are called NAME_mask" in said
    assert "16 images left out:" in said and "  1.png: it has no mask" in said and "and 6 more" in said
    assert sum(len(found) for found in names(tmp_path, name="mine").values()) == 12
    (tmp_path / "c").mkdir()
    for other in ("left", "middle", "right"):
        save(tmp_path / f"c/{other}.png", disc(0) * WHITE)
    command[-1] = str(tmp_path / "c")
    assert main([*command, "--output", str(tmp_path / "none")]) == 2
    said = capsys.readouterr().err
    assert "none of the 26 images" in said and "1.png, 10.png" in said and "and 16 more" in said
    assert "masks left.png, middle.png, right.png" in said and "--table" in said
    assert not (tmp_path / "none").exists()


def test_dicom(tmp_path: Path) -> None:
    make(tmp_path)
    for i in range(1, COUNT + 1):
        (tmp_path / f"a/{i}.png").unlink()
        write_dicom(tmp_path / (f"a/{i}.dcm" if i % 2 else f"a/{i}"), picture(i)[None])
    assert sum(run(tmp_path).splits.values()) == COUNT
    with Image.open(tmp_path / "out/all/images/own_3.png") as image:
        assert np.array_equal(np.asarray(image), picture(3))


@pytest.mark.parametrize("shares", ["60/20/20", "80/10/10", "34/33/33"])
def test_split(shares: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, count=40)
    command = ["prepare", "folder", "--images", f"{tmp_path / 'a'}", "--masks", f"{tmp_path / 'b'}", "--output"]
    assert main([*command, str(tmp_path / "out"), "--split", shares]) == 0
    for count, share in zip((len(found) for found in names(tmp_path).values()), shares.split("/"), strict=True):
        assert abs(count - 40 * int(share) / 100) <= 1
    first = names(tmp_path)
    again = [*command, str(tmp_path / "out"), "--overwrite", "--split", shares]
    assert main(again) == 0 and names(tmp_path) == first
    assert main([*again, "--seed", "5"]) == 0 and names(tmp_path) != first


@pytest.mark.parametrize("text", ["70/30", "80/20/0", "70/20/20", "a/b/c", "70/15/15/0", "-10/60/50"])
def test_splits_that_are_none(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path)
    command = ["prepare", "folder", "--images", f"{tmp_path / 'a'}", "--masks", f"{tmp_path / 'b'}"]
    assert main([*command, "--output", f"{tmp_path / 'out'}", f"--split={text}"]) == 2
    assert f"--split {text} was given, expected three percentages" in capsys.readouterr().err


def test_too_few_images(tmp_path: Path) -> None:
    make(tmp_path, count=2)
    with pytest.raises(InputError, match=r"2 images leave the test split empty.* need 3 or more"):
        run(tmp_path)
    assert not (tmp_path / "out").exists()
    make(tmp_path, count=3)
    assert run(tmp_path).splits == {"train": 1, "val": 1, "test": 1}


def test_patients_stay_together(tmp_path: Path) -> None:
    make(tmp_path, count=30)
    rows = [f"{i}.png,patient {i % 6}" for i in range(1, 31)]
    for header, form in (("image,patient", str), ("image,group", lambda row: row.replace(".png", ""))):
        (tmp_path / "patients.csv").write_text("\n".join([header, *map(form, rows), "other.png,x"]))
        run(tmp_path, groups=tmp_path / "patients.csv")
        for found in names(tmp_path).values():
            assert found and len(found) % 5 == 0
        written = {
            image: group for _, image, group in read_pairs(tmp_path / "out/segmentation/own/groups.csv", "group", "")
        }
        assert sorted(written) == every(tmp_path) and len(set(written.values())) == 6
        assert written["own_1.png"] == written["own_7.png"] != written["own_2.png"]
    (tmp_path / "patients.csv").write_text("\n".join(rows[:28]))
    with pytest.raises(InputError, match=r"has no patient for 29.png, 30.png; add a row image,patient for each"):
        run(tmp_path, groups=tmp_path / "patients.csv")


def test_subfolders_as_patients(tmp_path: Path) -> None:
    for patient in range(5):
        make(tmp_path, f"a/p{patient}/{patient}-{{}}.png", f"b/p{patient}/{patient}-{{}}.png", count=2)
        for i in (1, 2):
            save(tmp_path / f"a/p{patient}/{patient}-{i}.png", picture(10 * patient + i))
    report = run(tmp_path)
    assert "images lie in 5 folders, such as p4: if each is a patient" in report.notes[-1]
    assert not run(tmp_path, groups="subfolders").notes
    for found in names(tmp_path).values():
        assert found and all(
            f"own_p{p}_{p}-{i}.png" in found for p in range(5) for i in (1, 2) if f"p{p}_" in str(found)
        )
    save(tmp_path / "a/alone.png", picture(99))
    save(tmp_path / "b/alone.png", disc(99) * WHITE)
    with pytest.raises(InputError, match=r"subfolders was given, and alone.png are in none"):
        run(tmp_path, groups="subfolders")


def test_duplicates_stay_in_one_split(tmp_path: Path) -> None:
    make(tmp_path, count=20)
    for i in range(2, 10):
        near = np.clip(picture(1).astype(int) + i, 0, 255).astype(np.uint8)
        save(tmp_path / f"a/{i}.png", near)
    save(tmp_path / "a/20.png", picture(19))
    report = run(tmp_path)
    assert report.exact == [("own_20.png", "own_19.png")] or report.exact == [("own_19.png", "own_20.png")]
    assert (
        len({split for split, found in names(tmp_path).items() for i in range(1, 10) if f"own_{i}.png" in found}) == 1
    )
    groups = {image: group for _, image, group in read_pairs(tmp_path / "out/segmentation/own/groups.csv", "group", "")}
    assert len({groups[f"own_{i}.png"] for i in range(1, 10)}) == 1 and len(set(groups.values())) == 11


def three(values: tuple[object, object, object], i: int) -> np.ndarray:
    """A mask with three values in which the third is missing from every other one."""
    values = tuple(np.asarray(value, np.uint8) for value in values)  # type: ignore[assignment]
    pixels = np.full((40, 52, *np.shape(values[0])), values[0], np.uint8)
    pixels[5:15, 5 + i : 20 + i] = values[1]
    if i % 2:
        pixels[25:30, 10:20] = values[2]
    return pixels


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((0, 128, 255), "0 = background, 128 = lesion, 255 = vessel"),
        ((0, 1, 2), "0 = background, 1 = lesion, 2 = vessel"),
        ((7, 8, 90), "7 = background, 8 = lesion, 90 = vessel"),
        (((0, 0, 0), (0, 0, 255), (255, 0, 0)), "0 = background, #0000ff = lesion, #ff0000 = vessel"),
        ("palette", "0 (#000000) = background, 1 (#800000) = lesion, 2 (#008000) = vessel"),
    ],
)
def test_masks_of_several_classes(values: object, said: str, tmp_path: Path) -> None:
    make(tmp_path, mask="b/{}_mask.png")
    for i in range(1, COUNT + 1):
        if values == "palette":
            image = Image.fromarray(three((0, 1, 2), i), "P")
            image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
            image.save(tmp_path / f"b/{i}_mask.png")
        else:
            save(tmp_path / f"b/{i}_mask.png", three(values, i))  # type: ignore[arg-type]
    listed = [part.split(" = ")[0] for part in said.split(", ")]
    counted = ", ".join(f"{value} (in {count})" for value, count in zip(listed, (12, 12, 6), strict=True))
    with pytest.raises(InputError) as caught:
        run(tmp_path)
    assert f"the 12 masks have 3 values: {counted}; name the class of each" in str(caught.value)
    report = run(tmp_path, classes=("background", "lesion", "vessel"))
    assert f"values in masks: {said}" in report.notes
    assert (tmp_path / "out/segmentation/own/classes.txt").read_text() == "background\nlesion\nvessel\n"
    for i in range(1, COUNT + 1):
        assert np.array_equal(mask_of(tmp_path, f"own_{i}.png"), three((0, 1, 2), i))
    sums = (tmp_path / "out/own.sha256").read_text()
    assert "classes.txt" in sums and "groups.csv" in sums
    for classes in (("background", "lesion"), ("background", "lesion", "vessel", "bone")):
        if values in ((0, 1, 2), "palette") and len(classes) == 4:
            run(tmp_path, classes=classes)  # numbers of classes, of which one is in no mask
            continue
        with pytest.raises(InputError, match=f"have 3 values: .*; --classes names {len(classes)}: "):
            run(tmp_path, classes=classes)


def test_a_second_preparation_leaves_no_table_of_the_first(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "labels.csv").write_text("".join(f"{i}.png,{i % 2}\n" for i in range(1, COUNT + 1)))
    run(tmp_path, classes=("background", "cyst"), labels=tmp_path / "labels.csv")
    other = tmp_path / "out/segmentation/own/notes.txt"
    other.write_text("mine")
    run(tmp_path)
    assert not (tmp_path / "out/segmentation/own/classes.txt").exists() and other.exists()
    assert not (tmp_path / "out/classification").exists()


def test_values_of_two_classes_in_different_masks_are_not_one_lesion(tmp_path: Path) -> None:
    make(tmp_path)
    save(tmp_path / "b/5.png", disc(5) * np.uint8(128))
    with pytest.raises(InputError, match=r"have 3 values: 0 \(in 12\), 128 \(in 1\), 255 \(in 11\); name the class"):
        run(tmp_path)
    run(tmp_path, classes=("background", "lesion", "vessel"))
    assert mask_of(tmp_path, "own_5.png").max() == 1 and mask_of(tmp_path, "own_6.png").max() == 2
    tiny = disc(5) * WHITE
    tiny[:4, :4] = 128
    make(tmp_path)
    save(tmp_path / "b/5.png", tiny)
    with pytest.raises(InputError, match="have 3 values"):
        run(tmp_path)


def test_masks_of_two_classes(tmp_path: Path) -> None:
    make(tmp_path)
    soft = Image.fromarray(disc(3) * WHITE).resize((104, 80), Image.Resampling.BILINEAR)
    save(tmp_path / "b/3.png", np.asarray(soft.resize((52, 40), Image.Resampling.BILINEAR)))
    (tmp_path / "b/4.png").unlink()
    Image.fromarray(disc(4) * WHITE).convert("RGB").save(tmp_path / "b/4.jpg", quality=60)
    run(tmp_path, classes=("background", "cyst"))
    assert (tmp_path / "out/segmentation/own/classes.txt").read_text() == "background\ncyst\n"
    assert all(set(np.unique(mask_of(tmp_path, name))) == {0, 255} for name in every(tmp_path))
    with pytest.raises(InputError, match=r"the mask .*3.png|4.jpg has other values along its edges.*save it as PNG"):
        run(tmp_path, classes=("background", "cyst", "vessel"))
    make(tmp_path / "plain")
    run(tmp_path / "plain")
    assert not (tmp_path / "plain/out/segmentation/own/classes.txt").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda r: save(r / "b/4.png", disc(0, (9, 9)) * WHITE),
            r"4.png is 9x9 pixels, but its image .*4.png is 52x40",
        ),
        (lambda r: (r / "a/4.png").write_text("x"), r"a/4.png cannot be read as an image"),
        (lambda r: (r / "b/4.png").write_text("x"), r"b/4.png cannot be read as an image"),
        (lambda r: save(r / "b/4.png", picture(4)), r"b/4.png has .* values"),
        (lambda r: (r / "b").rename(r / "c"), r"there is no folder .*b; expected one with images"),
        (lambda r: [path.unlink() for path in (r / "b").iterdir()], r"b has no images; expected PNG"),
    ],
)
def test_what_is_damaged_is_refused(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    make(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        run(tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_table(tmp_path: Path) -> None:
    make(tmp_path, "scans/x{}.png", "outlines/of {}.png", count=30)
    split = {1: "test", 2: "val", 3: "train", 6: "Validation"}
    lines = ["label,mask,image,patient,split,remark"]
    for i in range(1, 31):
        words = "cyst" if i % 2 else "solid, mixed"
        lines.append(f'"{words}",outlines/of {i}.png,scans/x{i}.png,p{(i - 1) // 3},{split.get(i, "")},')
    lines += ["cyst,,scans/none.png,p,,", "cyst,outlines/of 1.png,scans/none.png,p,,"]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    report = prepare_own(Own("own"), tmp_path / "out", table=tmp_path / "pairs.csv")
    assert report.left_out["row 32, scans/none.png"] == "its mask is empty"
    assert report.left_out["row 33, scans/none.png"] == "there is no file scans/none.png beside the table"
    assert (
        report.left_out["own_x2.png"] == report.left_out["own_x3.png"] == "of one group with an image of the test split"
    )
    assert "own_x1.png" in names(tmp_path)["test"] and "own_x6.png" in names(tmp_path)["val"]
    for found in names(tmp_path).values():
        assert all(f"own_x{i}.png" in found for i in range(7, 31) if f"own_x{(i - 1) // 3 * 3 + 1}.png" in found)
    assert np.array_equal(mask_of(tmp_path, "own_x9.png"), disc(9) * WHITE)
    assert (tmp_path / "out/classification/own/classes.txt").read_text() == "cyst\nsolid, mixed\n"
    assert (tmp_path / "out/classification/own/groups.csv").exists()
    data = ClassificationDataset(tmp_path / "out", "own", "train", classes=("cyst", "solid, mixed"))
    assert data.names == names(tmp_path)["train"]
    assert all(label == (int(name[5:-4]) % 2 == 0) for name, label in zip(data.names, data.labels, strict=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scan,outline\n", "begins with the line 'scan,outline', expected the names of columns: image, and mask or"),
        ("", "expected the names of columns"),
        ("image,mask\na/1.png\n", "row 2: 1 cells came, expected 2: image,mask"),
        ("image,mask,split\na/1.png,b/1.png,dev\n", "row 2: the split is dev, expected train, val, test or nothing"),
        ("image,mask\na/1.png,b/1.png\na/1.png,b/2.png\n", "row 3: a/1.png is in a row before, too"),
        (
            "image,mask\nc/1.png,b/1.png\n",
            "no row that can be used; the first: row 2, c/1.png: there is no file c/1.png",
        ),
    ],
)
def test_tables_that_are_none(text: str, message: str, tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        prepare_own(Own("own"), tmp_path / "out", table=tmp_path / "pairs.csv")


def test_a_folder_for_each_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(30):
        save(tmp_path / f"a/{('solid', 'cyst', 'normal')[i % 3]}/{i}.png", picture(i))
    command = ["prepare", "folder", "--images", str(tmp_path / "a"), "--output", str(tmp_path / "out")]
    assert main(command) == 0
    assert "labels: 0 = cyst, 1 = normal, 2 = solid" in capsys.readouterr().out
    assert (tmp_path / "out/classification/own/classes.txt").read_text() == "cyst\nnormal\nsolid\n"
    assert not (tmp_path / "out/segmentation").exists() and not (tmp_path / "out/all/masks").exists()
    for split in SPLITS:
        data = ClassificationDataset(tmp_path / "out", "own", split, 32)
        assert set(data.labels) == {0, 1, 2}
        for name, label in zip(data.names, data.labels, strict=True):
            assert name.startswith(f"own_{('cyst', 'normal', 'solid')[label]}_")
    command.append("--overwrite")
    assert main([*command, "--classes", "solid,cyst,normal"]) == 0
    assert "labels: 0 = solid, 1 = cyst, 2 = normal" in capsys.readouterr().out
    assert main([*command, "--classes", "solid,cyst"]) == 2
    assert "the label normal is none of the classes solid, cyst" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        (("b", "a", "c"), (), {"b": 1, "a": 0, "c": 2}),
        (("2", "10", "4"), (), {"2": 0, "10": 2, "4": 1}),
        (("0", "1.0", "2"), (), None),
        (("0", "1", "2"), ("x", "y", "z"), None),
    ],
)
def test_labels(labels: tuple[str, ...], classes: tuple[str, ...], expected: dict | None, tmp_path: Path) -> None:
    for i in range(30):
        save(tmp_path / f"a/{i}.png", picture(i))
    rows = [f"{i}.png,{labels[i % 3]}" for i in range(29)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,label", *rows]))
    report = prepare_own(Own("own", classes), tmp_path / "out", tmp_path / "a", labels=tmp_path / "labels.csv")
    assert report.left_out == {"29.png": "it has no label"} and len(every(tmp_path, "classification")) == 29
    path = tmp_path / "out/classification/own/classes.txt"
    if expected is None:
        assert path.exists() == bool(classes) and (not classes or path.read_text() == "x\ny\nz\n")
    else:
        assert path.read_text().split() == sorted(expected, key=expected.__getitem__)
    for name, number in zip(*_labels(tmp_path), strict=True):
        label = labels[int(name[4:-4]) % 3]
        assert number == (expected[label] if expected else int(float(label)))


def _labels(root: Path) -> tuple[list[str], list[int]]:
    data = ClassificationDataset(root / "out", "own", "all")
    return data.names, data.labels


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["folder"], "no images were named: give their folder with --images, or a table"),
        (["folder", "x", "--images", "a"], "x came behind folder: name the folders with --images"),
        ([], "nothing to prepare was named: for your own images take ht-kernels prepare folder"),
        (["data"], "data is no kind of data: for your own images take"),
        (["busi"], "busi needs one source, the unpacked download, and none came"),
        (["busi", "a", "--masks", "b"], "--masks is for folder; busi does not take it"),
        (["folder", "--images", "a", "--table", "b"], "--table stands for --images"),
        (["folder", "--images", "a", "--classes", "one"], "--classes one was given, expected 2 to 32 different names"),
        (["folder", "--images", "a", "--classes", "a,,b"], "expected 2 to 32 different names"),
        (["folder", "--images", "a", "--name", "a/b"], "the name 'a/b' of the data set came, expected letters"),
        (["folder", "--images", "nowhere"], "there is no folder nowhere; expected one with images"),
    ],
)
def test_bad_commands(
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(make(tmp_path))
    assert main(["prepare", *options, "--output", "out"]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_download_may_be_named_by_the_first_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(1, 11):
        for kind in ("benign", "malignant"):
            save(tmp_path / f"in/{kind}/{kind} ({i}).png", picture(i + 100 * (kind == "benign")))
            save(tmp_path / f"in/{kind}/{kind} ({i})_mask.png", disc(i) * WHITE)
    assert main(["prepare", "busi", str(tmp_path / "in"), "--output", str(tmp_path / "one")]) == 0
    assert main(["prepare", str(tmp_path / "in"), "--dataset", "busi", "--output", str(tmp_path / "two")]) == 0
    one, two = ((tmp_path / output / "BUSI.sha256").read_bytes() for output in ("one", "two"))
    assert one == two


def test_images_of_another_data_set_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The names of two data sets may give the same name to an image."""
    for folder, name in (("a", "two_{}.png"), ("b", "{}.png")):
        for i in range(6):
            save(tmp_path / folder / "images" / name.format(i), picture(i + 10 * (folder == "b")))
            save(tmp_path / folder / "masks" / name.format(i), disc(i))
    where = [(str(tmp_path / folder / "images"), str(tmp_path / folder / "masks")) for folder in "ab"]
    out = ["--output", str(tmp_path / "out")]
    first, second = (["prepare", "folder", "--images", images, "--masks", masks, *out] for images, masks in where)
    assert main([*first, "--name", "own"]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert main([*second, "--name", "own_two", "--overwrite"]) == 2
    assert "own_two_0.png is there already, and no earlier run" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    (tmp_path / "out/all/images/mine.png").write_text("mine")
    assert main([*second, "--name", "own", "--overwrite"]) == 0
    there = {path.name for path in (tmp_path / "out/all/images").iterdir()}
    assert there == {"mine.png", *(f"own_{i}.png" for i in range(6))}


def test_a_misspelled_column_is_refused_and_another_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(6):
        save(tmp_path / f"i/{i}.png", picture(i))
        save(tmp_path / f"m/{i}.png", disc(i))
    for column, status, said in (
        ("pateint", 2, "has the column 'pateint': rename it to patient"),
        ("device", 0, "the column 'device' is not read"),
    ):
        rows = "".join(f"i/{i}.png,m/{i}.png,{i // 2}\n" for i in range(6))
        (tmp_path / "t.csv").write_text(f"image,mask,{column}\n{rows}")
        command = ["prepare", "folder", "--table", str(tmp_path / "t.csv"), "--output", str(tmp_path / column)]
        assert main(command) == status
        printed = capsys.readouterr()
        assert said in printed.out + printed.err


@pytest.mark.parametrize("split", ["train", "val"])
def test_rows_without_a_split_get_one_of_all(split: str, tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / f"i/{i}.png", picture(i))
        save(tmp_path / f"m/{i}.png", disc(i))
    rows = "".join(f"i/{i}.png,m/{i}.png,{split if i == 0 else ''}\n" for i in range(12))
    (tmp_path / "t.csv").write_text(f"image,mask,split\n{rows}")
    report = prepare_own(Own("own"), tmp_path / "out", table=tmp_path / "t.csv")
    assert min(report.splits.values()) > 0
    assert "own_0.png" in (tmp_path / f"out/segmentation/own/{split}.txt").read_text()


def test_a_file_of_somebody_else_is_refused_before_images_are_read(tmp_path: Path) -> None:
    make(tmp_path)
    save(tmp_path / "out/all/masks/own_2.png", disc(2))
    (tmp_path / "a/1.png").write_bytes(b"damaged")  # what reading it would say
    with pytest.raises(InputError, match=r"own_2\.png is there already, and no earlier run"):
        run(tmp_path)
    assert [path.name for path in (tmp_path / "out").rglob("*.*")] == ["own_2.png"]


@pytest.mark.parametrize("place", ["a", "b", "a/below/out"])
def test_an_output_among_the_inputs(place: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(InputError, match=f"lies in .*{place[0]}, whose images it is made of: name one beside it"):
        prepare_own(Own("own"), tmp_path / place, tmp_path / "a", tmp_path / "b")


def test_masks_without_background_are_said(tmp_path: Path) -> None:
    make(tmp_path)
    assert run(tmp_path).notes == []
    save(tmp_path / "b/3.png", np.full_like(disc(3), 255))
    assert "the mask of 3.png has no background: look whether" in run(tmp_path).notes[-1]
    for i in range(1, COUNT + 1):
        save(tmp_path / f"b/{i}.png", np.uint8(255) - disc(i) * WHITE)
    assert f"{COUNT} of {COUNT} masks cover more than half of the image, as inverted" in run(tmp_path).notes[-1]
    save(tmp_path / "b/3.png", disc(3) * 0)
    assert f"1 of {COUNT} masks have background alone: 3.png" in run(tmp_path).notes[-1]


@pytest.mark.parametrize("palette", [False, True])
def test_a_thin_class_is_one(palette: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rim of a pixel may be a class or blur; names of classes say which, and so does a palette."""
    make(tmp_path)
    for i in range(1, COUNT + 1):
        inside = disc(i) > 0
        rim = inside & ~np.all([np.roll(inside, step, axis) for step in (-1, 1) for axis in (0, 1)], axis=0)
        values = np.where(rim, 1, 2 * inside).astype(np.uint8)
        image = Image.fromarray(values if palette else values * np.uint8(100))
        if palette:
            image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        image.save(tmp_path / f"b/{i}.png")
    if palette:
        with pytest.raises(InputError, match="masks have 3 values"):
            run(tmp_path)
    else:
        assert "taken for blur: if they are a class, name all classes with --classes" in run(tmp_path).notes[0]
    report = run(tmp_path, classes=("background", "rim", "lesion"))
    assert report.notes[0].startswith("values in masks: ")
    assert set(np.unique(mask_of(tmp_path, "own_1.png"))) == {0, 1, 2}
