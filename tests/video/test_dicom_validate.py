"""DICOM Segmentations under dciodvfy, the validator of Debian's dicom3tools."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from helpers.clips import frames, region, write_dicom
from helpers.dicom import patient
from ht_kernels.class_colors import color_of
from ht_kernels.media.scale import Spacing
from ht_kernels.video.dicom_seg import check_clip, write_segmentation

pytest.importorskip("highdicom")
DCIODVFY = shutil.which("dciodvfy")
pytestmark = pytest.mark.skipif(DCIODVFY is None, reason="dciodvfy is not installed: apt-get install dicom3tools")

NAMES = {1: ("background", "class 1"), 3: ("background", "lesion", "solid \\ cystic", "x" * 70)}
OF_PRIVATE_CODE = (
    "Warning - Unrecognized defined term <99HTKERNELS> for value 1 of attribute <Coding Scheme Designator>"
)
OF_THE_IMAGE = "Value is zero for value 1 of attribute <Patient's", "Retired Person Name form"
"""What the examples say of their patients, which a Segmentation repeats."""


STUDY = {"PatientID": "1", "StudyID": "1", "StudyDate": "20260101", "StudyTime": "120000"}


def calibrated() -> dict[str, object]:
    tissue = region(2, 2, 60, 40)
    tissue.PhysicalUnitsXDirection = tissue.PhysicalUnitsYDirection = 3
    tissue.PhysicalDeltaX, tissue.PhysicalDeltaY = 0.01234567890123456, 0.02
    return {**STUDY, "SequenceOfUltrasoundRegions": [tissue]}


PLACED = {
    **STUDY,
    "FrameOfReferenceUID": "1.2.6",
    "ImagePositionPatient": [0, 0, 0],
    "ImageOrientationPatient": [0, 1, 0, 0, 0, -1],
    "PixelSpacing": [0.3, 0.4],
    "SliceThickness": 1,
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1",
}


def written(folder: Path, kind: str) -> Path:
    """A file of the kind, written here or of pydicom."""
    gray, path = np.stack(frames(3)), folder / "image.dcm"
    if kind == "clip":
        return write_dicom(path, gray, **patient(**STUDY))
    if kind == "colour clip":
        return write_dicom(path, np.repeat(gray[..., None], 3, 3), **patient(**STUDY))
    if kind == "odd size":
        return write_dicom(path, np.stack(frames(3, 7, 9)), **patient(**STUDY))
    if kind == "calibrated clip":
        return write_dicom(path, gray, **patient(**calibrated()))
    if kind == "placed image":
        write_dicom(path, gray[:1], **patient(**PLACED))
        dataset = dcmread(path)
        del dataset.NumberOfFrames
        dataset.save_as(path)
        return path
    return Path(get_testdata_file(kind, download=False))


@pytest.mark.parametrize("ohif", [False, True], ids=["plain", "ohif"])
@pytest.mark.parametrize("classes", NAMES)
@pytest.mark.parametrize(
    "kind",
    [
        *("clip", "colour clip", "odd size", "calibrated clip", "placed image"),
        *("examples_rgb_color.dcm", "examples_palette.dcm", "examples_ybr_color.dcm", "examples_jpeg2k.dcm"),
    ],
)
def test_the_validator_finds_no_error(tmp_path: Path, kind: str, classes: int, ohif: bool) -> None:
    image = written(tmp_path, kind)
    check_clip(image)
    source = dcmread(image, stop_before_pixels=True)
    shape = int(source.get("NumberOfFrames") or 1), source.Rows, source.Columns
    masks = list(np.random.default_rng(0).integers(0, classes + 1, shape, dtype=np.uint8))
    write_segmentation(tmp_path / "seg.dcm", image, masks, NAMES[classes], ohif=ohif)
    pixels = dcmread(tmp_path / "seg.dcm").pixel_array.reshape(-1, source.Rows, source.Columns)
    assert np.array_equal(pixels[: len(masks)], np.stack(masks) == 1)
    ran = subprocess.run([str(DCIODVFY), str(tmp_path / "seg.dcm")], capture_output=True, text=True)
    said = [line for line in ran.stderr.splitlines() if line and not any(words in line for words in OF_THE_IMAGE)]
    assert said == ["Segmentation", *[OF_PRIVATE_CODE] * (classes if classes > 1 else 0)], ran.stderr


def test_the_validator_finds_what_is_missing(tmp_path: Path) -> None:
    """So that its silence means something."""
    write_segmentation(tmp_path / "seg.dcm", written(tmp_path, "clip"), [None] * 3, NAMES[1])
    dataset = dcmread(tmp_path / "seg.dcm")
    del dataset.PatientOrientation, dataset.SegmentationType
    dataset.save_as(tmp_path / "bad.dcm")
    said = subprocess.run([str(DCIODVFY), str(tmp_path / "bad.dcm")], capture_output=True, text=True).stderr
    assert "Error - Missing attribute Type 2C Conditional Element=<PatientOrientation>" in said
    assert "Element=<SegmentationType>" in said


def measures(path: Path) -> list[float] | None:
    shared = dcmread(path).SharedFunctionalGroupsSequence[0]
    return (
        list(shared.PixelMeasuresSequence[0].get("PixelSpacing") or []) if "PixelMeasuresSequence" in shared else None
    )


def test_the_size_of_a_pixel_is_that_of_the_image(tmp_path: Path) -> None:
    place = tmp_path / "seg.dcm"
    for kind, expected in {"clip": None, "calibrated clip": [0.2, 0.1234567890123], "placed image": [0.3, 0.4]}.items():
        image = written(tmp_path, kind)
        masks = [None] * int(dcmread(image).get("NumberOfFrames") or 1)
        write_segmentation(place, image, masks, NAMES[1])
        assert measures(place) == (None if expected is None else pytest.approx(expected, abs=1e-9))


def test_a_users_size_of_a_pixel_counts_more(tmp_path: Path) -> None:
    """As in the tables and in the report beside it."""
    place = tmp_path / "seg.dcm"
    for kind in ("clip", "calibrated clip", "placed image"):
        image = written(tmp_path, kind)
        masks = [None] * int(dcmread(image).get("NumberOfFrames") or 1)
        write_segmentation(place, image, masks, NAMES[1], spacing=Spacing(0.5, 0.3))
        assert measures(place) == [0.3, 0.5]


def test_for_ohif_a_plane_is_stated_where_the_image_has_none(tmp_path: Path) -> None:
    """Nothing is said of the size of pixels that is not known, and what is known of the plane stays."""
    for kind, plane, size in [
        ("clip", [1, 0, 0, 0, 1, 0], []),
        ("calibrated clip", [1, 0, 0, 0, 1, 0], pytest.approx([0.2, 0.1234567890123], abs=1e-9)),
        ("placed image", [0, 1, 0, 0, 0, -1], [0.3, 0.4]),
    ]:
        image, place = written(tmp_path, kind), tmp_path / "seg.dcm"
        masks = [None] * int(dcmread(image).get("NumberOfFrames") or 1)
        write_segmentation(place, image, masks, NAMES[1], ohif=True)
        shared = dcmread(place).SharedFunctionalGroupsSequence[0]
        assert list(shared.PlaneOrientationSequence[0].ImageOrientationPatient) == plane and measures(place) == size
        write_segmentation(place, image, masks, NAMES[1])
        assert ("PlaneOrientationSequence" in dcmread(place).SharedFunctionalGroupsSequence[0]) == (kind[0] == "p")


@pytest.mark.parametrize("characters", [None, "ISO_IR 100", "ISO_IR 192"])
def test_letters_of_any_language(tmp_path: Path, characters: str | None) -> None:
    """Those of the classes are not in the character set of every image, and those of the patient stay."""
    said = {} if characters is None else {"SpecificCharacterSet": characters, "PatientName": "Müller^Jürgen"}
    image = write_dicom(tmp_path / "image.dcm", np.stack(frames(3)), **patient(**STUDY, **said))
    names = ("background", "Läsion", "病变")
    write_segmentation(tmp_path / "seg.dcm", image, [None] * 3, names)
    dataset = dcmread(tmp_path / "seg.dcm")
    assert [segment.SegmentLabel for segment in dataset.SegmentSequence] == list(names[1:])
    assert dataset.PatientName == said.get("PatientName", "") and dataset.SpecificCharacterSet == "ISO_IR 192"
    errors = subprocess.run([str(DCIODVFY), str(tmp_path / "seg.dcm")], capture_output=True).stderr
    assert b"Error" not in errors


def test_segments_have_the_colours_of_the_overlay(tmp_path: Path) -> None:
    from highdicom.color import CIELabColor

    write_segmentation(tmp_path / "seg.dcm", written(tmp_path, "clip"), [None] * 3, NAMES[3])
    for number, segment in enumerate(dcmread(tmp_path / "seg.dcm").SegmentSequence, 1):
        shown = CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue).to_rgb()
        assert shown == pytest.approx(color_of(number), abs=2)
