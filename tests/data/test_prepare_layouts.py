"""ht-kernels prepare nnunet and coco: made-up data sets of each layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.layout import disc, picture, save
from ht_kernels.cli import main
from ht_kernels.data.layout import SPLITS
from ht_kernels.data.prepare import Own, Report, prepare_own
from ht_kernels.data.prepare.coco import decode
from ht_kernels.errors import InputError

SIZE = 52, 40  # width, height


def written(root: Path) -> dict[str, np.ndarray]:
    """The masks that were written, by name."""
    masks = {}
    for path in (root / "out/all/masks").iterdir():
        with Image.open(path) as image:
            masks[path.name] = np.asarray(image)
    return masks


def listed(root: Path, name: str) -> dict[str, list[str]]:
    return {split: (root / f"out/segmentation/{name}/{split}.txt").read_text().split() for split in SPLITS}


NEW = {"background": 0, "lesion": 1, "vessel": 2}
OLD = {"0": "background", "1": "lesion", "2": "vessel"}


def classes_of(i: int) -> np.ndarray:
    mask = disc(i)
    mask[2:6, 2:9] = 2
    return mask


def make_nnunet(source: Path, labels: dict, test: int = 0) -> Path:
    for i in range(12 + test):
        part = "Tr" if i < 12 else "Ts"
        save(source / f"images{part}/case_{i:03}_0000.png", picture(i))
        save(source / f"labels{part}/case_{i:03}.png", classes_of(i))
    (source / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".png"}))
    return source


def run_nnunet(root: Path, **options: object) -> Report:
    return prepare_own(Own("own"), root / "out", nnunet=root / "in", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("labels", [NEW, OLD])
def test_nnunet(labels: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_nnunet(tmp_path / "Dataset012_Breast", labels)
    save(source / "imagesTs/case_900_0000.png", picture(900))
    assert main(["prepare", "nnunet", str(source), "--output", str(tmp_path / "out"), "--name", "Breast"]) == 0
    said = capsys.readouterr().out
    assert "Breast: 12 images" in said and "case_900_0000.png: it has no mask in labelsTs" in said
    assert (tmp_path / "out/segmentation/Breast/classes.txt").read_text() == "background\nlesion\nvessel\n"
    masks = written(tmp_path)
    assert len(masks) == 12
    for i in range(12):
        assert np.array_equal(masks[f"breast_case_{i:03}.png"], classes_of(i))


def test_nnunet_with_a_test_set(tmp_path: Path) -> None:
    make_nnunet(tmp_path / "in", NEW, test=3)
    assert run_nnunet(tmp_path).splits["test"] == 3
    found = listed(tmp_path, "own")
    assert found["test"] == [f"own_case_{i:03}.png" for i in (12, 13, 14)] and found["val"]


def test_nnunet_with_pixels_to_ignore(tmp_path: Path) -> None:
    source = make_nnunet(tmp_path / "in", NEW | {"ignore": 3})
    mask = classes_of(4)
    mask[0, 0] = 3
    save(source / "labelsTr/case_004.png", mask)
    report = run_nnunet(tmp_path)
    assert report.left_out == {"case_004_0000.png": "case_004.png has pixels labelled ignore"}
    assert sum(report.splits.values()) == 11


def rewrite(source: Path, content: object) -> None:
    (source / "dataset.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: (s / "dataset.json").unlink(), r"dataset.json is missing"),
        (lambda s: (s / "dataset.json").write_text("{"), r"is no description of a data set of nnU-Net"),
        (lambda s: rewrite(s, {}), r"is no description of a data set of nnU-Net"),
        (lambda s: rewrite(s, {"labels": {"background": 0, "lesion": 2}}), r"has the labels 0, 2; expected 0, 1, ..."),
        (lambda s: rewrite(s, {"labels": {"background": 0, "all": [1, 2]}}), r"has labels of regions, all, which lie"),
        (
            lambda s: rewrite(s, {"labels": {"background": 0, "lesion": 1}}),
            r"case_000.png has the value 2, which is no",
        ),
        (lambda s: (s / "imagesTr/a_0000.nii.gz").write_bytes(b""), r"a_0000.nii.gz is a volume, which is not read"),
        (
            lambda s: save(s / "imagesTr/case_001_0001.png", picture(1)),
            r"several channels, case_001_0001.png, expected",
        ),
        (lambda s: (s / "labelsTr").rename(s / "labels"), r"has no cases; expected images such as imagesTr/CASE_0000"),
    ],
)
def test_bad_nnunet(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    damage(make_nnunet(tmp_path / "in", NEW))
    with pytest.raises(InputError, match=message):
        run_nnunet(tmp_path)
    assert not (tmp_path / "out").exists()


def packed(counts: list[int]) -> str:
    """Run lengths as letters, as COCO's API packs them."""
    text = ""
    for i, count in enumerate(counts):
        rest = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            code, rest = rest & 31, rest >> 5
            more = rest != (-1 if code & 16 else 0)
            text += chr(48 + code + 32 * more)
    return text


def runs(mask: np.ndarray) -> list[int]:
    flat = np.concatenate([[0], mask.T.ravel(), [0]])
    ends = np.flatnonzero(np.diff(flat))
    return np.diff([0, *ends, mask.size] if mask.T.ravel()[-1] == 0 else [0, *ends]).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths(seed: int) -> None:
    generator = np.random.default_rng(seed)
    for mask in (disc(seed), generator.integers(0, 2, (40, 52)).astype(np.uint8), np.ones((40, 52), np.uint8)):
        counts = runs(mask)
        for written in (counts, packed(counts)):
            assert np.array_equal(decode({"size": [40, 52], "counts": written}, SIZE), mask)


def test_run_lengths_as_the_api_of_coco_packs_them() -> None:
    """Letters worked out by hand from the format: 6 x 5 pixels, 3 columns of 5 free, then 4 inside, 11 outside.

    15 is 01111 with the sign bit (16) clear: code 15, the letter 63, "?". 4 is "4"; 11 is 48 + 11, ";".
    """
    inside = decode({"size": [5, 6], "counts": "?4;"}, (6, 5))
    assert np.array_equal(np.argwhere(inside), [(row, 3) for row in range(4)])
    # 16 needs a second letter, for its own would mean -16: 16 + 32 + 48 = 96, "`", then 0, "0".
    assert decode({"size": [4, 5], "counts": "`04"}, (5, 4))[:, 4].all()


def test_a_polygon_holds_the_pixels_whose_centres_it_holds() -> None:
    box = decode([[2, 3, 10, 3, 10, 7, 2, 7]], SIZE)
    assert box[3:7, 2:10].all() and box.sum() == 32
    rows, columns = np.mgrid[:40, :52] + 0.5
    triangle = decode([[0, 0, 39.8, 0, 0, 39.8]], SIZE)
    assert np.array_equal(triangle, rows + columns < 39.8)
    assert np.array_equal(decode([[2, 3, 10, 3, 10, 7, 2, 7], [0, 0, 39.8, 0, 0, 39.8]], SIZE), box | triangle)
    between = decode([[2.4, 3.4, 10.6, 3.4, 10.6, 7.4, 2.4, 7.4]], SIZE)
    assert between[3:7, 2:11].all() and between.sum() == 36
    outside = decode([[-5, -5, 100, -5, 100, 100, -5, 100]], SIZE)
    assert outside.all()


def rectangle(top: int, left: int, bottom: int, right: int) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def make_coco(source: Path) -> dict:
    """12 images; image 0 has a vessel in a lesion, image 1 a crowd in letters, image 2 nothing."""
    images, annotations = [], []
    for i in range(12):
        save(source / f"images/scan {i}.jpg", picture(i), quality=95)
        images.append({"id": 100 + i, "file_name": f"scan {i}.jpg", "width": 52, "height": 40})
        if i > 2:
            annotations.append({"image_id": 100 + i, "category_id": 7, "segmentation": rectangle(5, 5, 15, 15 + i)})
    # The vessel comes first, and is smaller: it lies on top.
    annotations.append({"image_id": 100, "category_id": 9, "segmentation": rectangle(10, 10, 14, 14)})
    annotations.append({"image_id": 100, "category_id": 7, "segmentation": rectangle(5, 5, 25, 30)})
    crowd = {"size": [40, 52], "counts": packed(runs(disc(1)))}
    annotations.append({"image_id": 101, "category_id": 9, "segmentation": crowd, "iscrowd": 1})
    categories = [{"id": 9, "name": "vessel"}, {"id": 7, "name": "lesion"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def run_coco(root: Path, content: object, **options: object) -> Report:
    (root / "in/instances.json").write_text(json.dumps(content))
    return prepare_own(Own("own"), root / "out", coco=root / "in/instances.json", **options)  # type: ignore[arg-type]


def test_coco(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = make_coco(tmp_path / "in")
    content["images"].append({"id": 1, "file_name": "none.jpg"})
    (tmp_path / "in/instances.json").write_text(json.dumps(content))
    command = ["prepare", "coco", str(tmp_path / "in/instances.json"), "--output", str(tmp_path / "out")]
    assert main([*command, "--images", str(tmp_path / "in/images")]) == 0
    said = capsys.readouterr().out
    assert "own: 12 images" in said and "none.jpg: there is no such image in" in said
    assert "1 images have no annotation: their masks are background alone" in said
    assert (tmp_path / "out/segmentation/own/classes.txt").read_text() == "background\nlesion\nvessel\n"
    masks = written(tmp_path)
    expected = np.zeros((40, 52), np.uint8)
    expected[5:25, 5:30] = 1
    expected[10:14, 10:14] = 2
    assert np.array_equal(masks["own_scan 0.png"], expected)
    assert np.array_equal(masks["own_scan 1.png"], disc(1) * 2) and not masks["own_scan 2.png"].any()
    assert masks["own_scan 5.png"].sum() == 10 * 15
    assert main([*command, "--overwrite"]) == 0  # images lie below the file


def test_coco_of_one_category_is_black_and_white(tmp_path: Path) -> None:
    content = make_coco(tmp_path / "in")
    content["categories"] = [{"id": 9, "name": "Background"}, {"id": 7, "name": "lesion"}]
    run_coco(tmp_path, content)
    masks = written(tmp_path)
    assert set(np.unique(masks["own_images_scan 5.png"])) == {0, 255}
    assert not masks["own_images_scan 0.png"][10:14, 10:14].any()


def test_coco_keeps_patients_together(tmp_path: Path) -> None:
    content = make_coco(tmp_path / "in")
    (tmp_path / "patients.csv").write_text("".join(f"scan {i},p{i % 4}\n" for i in range(12)))
    (tmp_path / "in/instances.json").write_text(json.dumps(content))
    prepare_own(Own("own", (), tmp_path / "patients.csv"), tmp_path / "out", coco=tmp_path / "in/instances.json")
    for split in SPLITS:
        names = (tmp_path / f"out/segmentation/own/{split}.txt").read_text().splitlines()
        assert names and len(names) % 3 == 0


@pytest.mark.parametrize(
    ("outline", "why"),
    [
        ([], "an annotation has no segmentation, such as a box alone"),
        (None, "an annotation has no segmentation, such as a box alone"),
        ([[1, 2, 3, 4]], "a polygon has 2 points"),
        ([[1, 2, 3, 4, 5]], "an outline is damaged"),
        ([["a", 2, 3, 4, 5, 6]], "an outline is damaged"),
        ([[1, 2, 3, 4, float("nan"), 6]], "or one that is no number"),
        ({"size": [52, 40], "counts": [0, 2080]}, "it is for 40x52 pixels, and the image has 52x40"),
        ({"size": [40, 52], "counts": [0, 2081]}, "its run lengths add up to 2081, and the image has 2080 pixels"),
        ({"size": [40, 52], "counts": [-1, 2081]}, "its run lengths add up to 2080"),
        ({"size": [40, 52], "counts": "é"}, "its run lengths have the letter"),
        ({"counts": [0, 2080]}, "an outline is damaged"),
    ],
)
def test_damaged_outlines_are_left_out(outline: object, why: str, tmp_path: Path) -> None:
    content = make_coco(tmp_path / "in")
    content["annotations"][0]["segmentation"] = outline
    report = run_coco(tmp_path, content)
    assert why in report.left_out["scan 3.jpg"] and sum(report.splits.values()) == 11


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), r"is no file of COCO's instances"),
        (lambda c: c["images"][0].pop("file_name"), r"is no file of COCO's instances"),
        (lambda c: c["categories"].clear(), r"has the categories ; expected different ones, 1 or more"),
        (lambda c: c["categories"].append({"id": 1, "name": "lesion"}), r"expected different ones"),
        (lambda c: c["annotations"][0].update(category_id=3), r"has an annotation of category 3, which is not among"),
    ],
)
def test_bad_coco(change: Callable[[dict], object], message: str, tmp_path: Path) -> None:
    content = make_coco(tmp_path / "in")
    change(content)
    with pytest.raises(InputError, match=message):
        run_coco(tmp_path, content)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nnunet"], "nnunet needs one source, the folder with dataset.json, and none came"),
        (["coco", "a.json", "--masks", "b"], "--masks is for folder; coco does not take it"),
        (["nnunet", "a", "--classes", "x,y"], "--classes is for folder; nnunet does not take it"),
        (["coco", "none.json"], "none.json is missing"),
    ],
)
def test_bad_commands(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", *words, "--output", "out"]) == 2
    assert message in capsys.readouterr().err


def test_coco_of_images_of_another_size(tmp_path: Path) -> None:
    content = make_coco(tmp_path / "in")
    content["images"][0] |= {"width": 104, "height": 80}
    report = run_coco(tmp_path, content)
    assert "its outlines are for 104x80 pixels, and the image has 52x40" in " ".join(report.left_out.values())
