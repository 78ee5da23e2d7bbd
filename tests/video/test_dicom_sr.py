"""DICOM structured reports of measurements, read back with highdicom and judged by dciodvfy."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from helpers.clips import TINY, calibrated, frames, write_dicom, write_video
from helpers.dicom import calibrated_clip
from ht_kernels.cli import main
from ht_kernels.errors import InputError
from ht_kernels.measurement import measure
from ht_kernels.media.opening import open_file
from ht_kernels.media.scale import Scale, Spacing
from ht_kernels.outline import outline
from ht_kernels.prediction import Predictor
from ht_kernels.prediction.writing import predict_files
from ht_kernels.video import Stream, record
from ht_kernels.video.dicom_seg import write_segmentation
from ht_kernels.video.dicom_sr import Largest, check_file, write_report

highdicom = pytest.importorskip("highdicom")
pytestmark = pytest.mark.usefixtures("one_thread")


def masks(classes: int) -> list[np.ndarray]:
    """Of four frames: class 1 grows, class 2 shrinks, and a pixel lies apart."""
    made = []
    for i in range(4):
        mask = np.zeros((48, 64), np.uint8)
        mask[10 : 20 + i, 10:30] = 1
        mask[45, 60] = 1
        if classes > 2:
            mask[30:40, 40 : 60 - i] = 2
        made.append(mask)
    return made


def largest(clip: Path, made: list[np.ndarray], names: tuple[str, ...]) -> Largest:
    found = Largest()
    for index, mask in enumerate(made):
        found.add(index, mask, measure(mask, class_names=names, scales=open_file(clip).scales))
    found.add(len(made), None, None)
    return found


def judge(*files: Path) -> None:
    """Have dicom3tools judge a report, and whether it and what it refers to say the same of patient and study."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed: it is in Debian's package dicom3tools")
    verdicts = [subprocess.run(words, capture_output=True, text=True) for words in (["dciodvfy", files[-1]],)]
    if shutil.which("dcentvfy") is not None:
        verdicts.append(subprocess.run(["dcentvfy", *files], capture_output=True, text=True))
    for verdict in verdicts:
        assert "Error" not in verdict.stderr + verdict.stdout


def groups(path: Path) -> list[Any]:
    found: list[Any] = highdicom.sr.srread(path).content.get_planar_roi_measurement_groups()
    return found


def values(group: Any) -> dict[str, tuple[float, str]]:
    return {m.name.meaning: (float(m.value), m.unit.value) for m in group.get_measurements()}


@pytest.mark.parametrize("names", [("background", "lesion"), ("background", "lesion", "cyst\\b")])
@pytest.mark.parametrize("segmented", [False, True])
def test_a_group_for_each_class(tmp_path: Path, names: tuple[str, ...], segmented: bool) -> None:
    """Of the frame in which the class is largest, with the outline, or with the frame of a Segmentation."""
    clip, made = calibrated_clip(tmp_path / "clip.dcm"), masks(len(names))
    check_file(clip, open_file(clip).scales)
    segmentation = tmp_path / "seg.dcm" if segmented else None
    if segmentation is not None:
        write_segmentation(segmentation, clip, made, names)
    report = tmp_path / "report.dcm"
    write_report(report, clip, largest(clip, made, names).found(), len(names), segmentation)
    found = groups(report)
    assert [group.tracking_identifier for group in found] == ["lesion, frame 4", "cyst\\b, frame 1"][: len(names) - 1]
    meanings = [group.finding_type.meaning for group in found]
    assert meanings == (["Lesion"] if len(names) == 2 else ["lesion", "cyst/b"])
    area = (13 * 20 + segmented) * 0.02  # the pixel apart is of the segment, and not of the outline
    assert values(found[0]) == {
        "Area": (pytest.approx(area), "mm2"),
        "Long axis": (pytest.approx(np.hypot(2.0, 2.6), rel=1e-5), "mm"),
        "Short axis": (pytest.approx(2.0 * np.hypot(2.0, 2.6) / 2.6, rel=1e-5), "mm"),
    }
    uid = dcmread(clip).SOPInstanceUID
    if segmentation is None:
        roi = found[0].roi
        assert roi.GraphicType == "POLYLINE"
        assert roi.GraphicData == [10, 10, 30, 10, 30, 23, 10, 23, 10, 10]
        (image,) = roi.ContentSequence
        assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == uid
        assert image.ReferencedSOPSequence[0].ReferencedFrameNumber == 4
    else:
        of_masks = dcmread(segmentation)
        for group, mask, number, frame in zip(found, (made[3], made[0]), (1, 2), (4, 1), strict=False):
            segment, source = (i.ReferencedSOPSequence[0] for i in group[0].ContentSequence if i.ValueType == "IMAGE")
            assert segment.ReferencedSOPInstanceUID == of_masks.SOPInstanceUID
            shown = of_masks.pixel_array[int(segment.ReferencedFrameNumber) - 1]
            assert np.array_equal(shown, mask == number)
            assert (source.ReferencedSOPInstanceUID, int(source.ReferencedFrameNumber)) == (uid, frame)
    judge(clip, *([] if segmentation is None else [segmentation]), report)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stream writes one beside its tables, of the frames that these call the largest."""
    clip, output = calibrated_clip(tmp_path / "clip.dcm"), tmp_path / "out"
    assert main(["stream", str(clip), *TINY, "--dicom-sr", "--dicom-seg", "--output", str(output)]) == 0
    (group,) = groups(output / "measurements.dcm")
    row = dict(zip(*(line.split(",") for line in _lines(output, group)), strict=True))
    assert values(group)["Area"][0] == pytest.approx(float(row["area"]))
    assert values(group)["Long axis"][0] == pytest.approx(float(row["long_diameter"]))
    assert row["unit"] == "mm" and (row["spacing_x_mm"], row["spacing_y_mm"]) == ("0.1", "0.2")
    assert "largest in frame" in capsys.readouterr().out
    judge(clip, output / "segmentation.dcm", output / "measurements.dcm")


def _lines(output: Path, group: Any) -> tuple[str, str]:
    """The head of the table, and the line of the frame that a group is of."""
    head, *lines = (output / "measurements.csv").read_text().splitlines()
    return head, lines[int(group.tracking_identifier.rpartition(" ")[2]) - 1]


def test_predictions_and_recordings(tmp_path: Path) -> None:
    """Each file of a prediction has its report, of its own frames; what does not measure has none."""
    one, two = calibrated_clip(tmp_path / "one.dcm", 1), calibrated_clip(tmp_path / "two.dcm", 2)
    predictor, output = Predictor(calibrated()), tmp_path / "out"
    report = predict_files(predictor, {"a/one": one, "two": two}, output, measured=True, dicom_sr=True)
    assert {"reports/a/one.dcm", "reports/two.dcm"} <= set(report["files"])
    rows = json.loads((output / "measurements.json").read_text())
    for file, name in ((one, "a/one"), (two, "two")):
        for group in groups(output / f"reports/{name}.dcm"):
            mine = [r["area"] for r in rows if (r["file"], r["class"]) == (str(file), group.finding_type.meaning)]
            assert values(group)["Area"][0] <= max(filter(None, mine)) and values(group)["Long axis"][0] > 0
    judge(one, output / "reports/a/one.dcm")
    picture = write_video(tmp_path / "video.mp4")
    report = predict_files(predictor, {"two": two, "v": picture}, output, measured=True, dicom_seg=True, dicom_sr=True)
    assert {"reports/two.dcm", "segmentations/two.dcm"} == {name for name in report["files"] if name.endswith(".dcm")}
    (group, *_), of_masks = groups(output / "reports/two.dcm"), dcmread(output / "segmentations/two.dcm")
    segment = next(i.ReferencedSOPSequence[0] for i in group[0].ContentSequence if i.ValueType == "IMAGE")
    assert segment.ReferencedSOPInstanceUID == of_masks.SOPInstanceUID
    predict_files(predictor, {"two": two}, output)
    assert not (output / "reports").exists()
    with pytest.raises(InputError, match="a DICOM report has measurements: pass measured, too"):
        predict_files(predictor, {"one": one}, output, dicom_sr=True)
    with pytest.raises(InputError, match="this stream makes none: make it with measure=True"):
        record(open_file(one), Stream(calibrated()), output, dicom_sr=True)
    with pytest.raises(InputError, match="a DICOM report is made of a DICOM clip not played live"):
        record(open_file(one), Stream(calibrated(), live=True, measure=True), output, dicom_sr=True)


def test_names_in_any_letters(tmp_path: Path) -> None:
    clip, made, names = calibrated_clip(tmp_path / "clip.dcm"), masks(3), ("background", "Zyste ä", "病変")
    report = tmp_path / "report.dcm"
    write_report(report, clip, largest(clip, made, names).found(), len(names))
    found = groups(report)
    assert [group.finding_type.meaning for group in found] == ["Zyste ä", "病変"]
    assert [group.tracking_identifier for group in found] == ["Zyste ä, frame 4", "病変, frame 1"]
    judge(clip, report)


def test_what_cannot_have_a_report(tmp_path: Path) -> None:
    clip, pixels = calibrated_clip(tmp_path / "clip.dcm"), np.stack(frames())
    bare = write_dicom(tmp_path / "bare.dcm", pixels, PixelSpacing=[0.2, 0.1])
    with pytest.raises(InputError, match=r"bare\.dcm cannot have a DICOM report"):
        check_file(bare, open_file(bare).scales)
    with pytest.raises(InputError, match=r"clip\.dcm does not say how large its pixels are.*pass --spacing"):
        check_file(clip, ())
    check_file(clip, (Scale(None, Spacing(1, 1)),))
    found = Largest()
    found.add(0, masks(2)[0], measure(masks(2)[0]))
    assert found.found() == []  # in pixels


def test_refusals_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip, video = calibrated_clip(tmp_path / "clip.dcm"), write_video(tmp_path / "video.mp4")
    unscaled = calibrated_clip(tmp_path / "unscaled.dcm", SequenceOfUltrasoundRegions=[])
    output = ["--output", str(tmp_path / "out"), "--dicom-sr"]
    for words, sentence in (
        (["stream", str(video), *TINY], "--dicom-sr goes with a DICOM clip"),
        (["stream", str(clip), *TINY, "--live"], "--dicom-sr goes with a DICOM clip that is not played live"),
        (["stream", str(unscaled), *TINY], "does not say how large its pixels are"),
        (["predict", str(video), "--weights", "phantom"], "--dicom-sr goes with DICOM files"),
    ):
        assert main([*words, *output]) == 2
        assert sentence in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_error_of_the_disk_has_no_traceback_in_it(tmp_path: Path) -> None:
    clip = calibrated_clip(tmp_path / "clip.dcm")
    with open("/dev/full", "wb") as full, pytest.raises(OSError) as caught:
        write_report(Path(full.name), clip, largest(clip, masks(2), ("background", "lesion")).found(), 2)
    assert caught.value.strerror == "No space left on device"


def test_outlines_enclose_their_region() -> None:
    """The area by the polygon is the number of pixels in it, of which a region without holes has all."""
    generator = np.random.default_rng(0)
    for _ in range(50):
        region = np.zeros((9, 12), bool)
        y, x = 4, 5
        for _ in range(40):  # a walk, also over corners
            region[y, x] = True
            y, x = np.clip(np.array([y, x]) + generator.integers(-1, 2, 2), 0, (8, 11))
        region = region[region.any(1)][:, region.any(0)]
        x0, y0 = np.array(outline(region)).T
        enclosed = abs((x0 * np.roll(y0, -1) - np.roll(x0, -1) * y0).sum()) / 2
        assert enclosed == region.size - _outside(region)


def _outside(region: np.ndarray) -> int:
    """How many pixels are neither in a region nor in its holes: they are joined to the border by their sides."""
    free, reached = ~np.pad(region, 1), np.zeros(np.add(region.shape, 2), bool)
    reached[0, 0] = True
    while True:
        more = reached.copy()
        more[1:] |= reached[:-1]
        more[:-1] |= reached[1:]
        more[:, 1:] |= reached[:, :-1]
        more[:, :-1] |= reached[:, 1:]
        more &= free
        if np.array_equal(more, reached):
            return int(reached[1:-1, 1:-1].sum())
        reached = more
