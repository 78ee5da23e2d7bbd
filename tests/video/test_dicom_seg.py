"""DICOM Segmentations, read back with highdicom and pydicom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file

from helpers.clips import TINY, folded, frames, write_dicom
from helpers.dicom import patient
from ht_kernels.cli import main
from ht_kernels.errors import InputError
from ht_kernels.media.opening import open_file
from ht_kernels.media.preprocess import preprocess
from ht_kernels.video import Stream, record
from ht_kernels.video.dicom_seg import check_clip, write_segmentation

highdicom = pytest.importorskip("highdicom")
pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("background", "lesion", "cyst")
CLIP = Path(get_testdata_file("examples_ybr_color.dcm", download=False))


def test_of_an_image(tmp_path: Path) -> None:
    image = Path(get_testdata_file("examples_rgb_color.dcm", download=False))
    check_clip(image)
    source = dcmread(image)
    mask = np.zeros((source.Rows, source.Columns), np.uint8)
    mask[10:40, 20:60], mask[100:120, 5:9] = 1, 2
    write_segmentation(tmp_path / "seg.dcm", image, [mask], NAMES)
    segmentation = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert [d.segment_label for d in segmentation.SegmentSequence] == ["lesion", "cyst"]
    read = segmentation.pixel_array
    assert np.array_equal(read[0], mask == 1) and np.array_equal(read[1], mask == 2)
    referenced = segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID
    assert referenced == source.SOPInstanceUID


@pytest.mark.parametrize("size", [(48, 64), (7, 9)])  # bits of a frame that fill bytes, and that do not
def test_of_a_clip_without_positions(tmp_path: Path, size: tuple[int, int]) -> None:
    clip = write_dicom(tmp_path / "clip.dcm", np.stack(frames(5, *size)), **patient())
    check_clip(clip)
    masks = list(np.random.default_rng(0).integers(0, 3, (5, *size), dtype=np.uint8))
    write_segmentation(tmp_path / "seg.dcm", clip, [*masks[:3], None, masks[4]], NAMES)
    masks[3][:] = 0
    source = dcmread(clip)
    segmentation = highdicom.seg.segread(tmp_path / "seg.dcm")
    for number, mask in enumerate(masks, 1):
        read = segmentation.get_pixels_by_source_frame(source.SOPInstanceUID, [number], combine_segments=True)
        assert np.array_equal(read[0], mask)

    plain = dcmread(tmp_path / "seg.dcm")
    assert plain.pixel_array.shape == (10, *size) and plain.StudyInstanceUID == source.StudyInstanceUID
    groups = zip(plain.PerFrameFunctionalGroupsSequence, plain.pixel_array, strict=True)
    for place, (group, pixels) in enumerate(groups):
        image = group.DerivationImageSequence[0].SourceImageSequence[0]
        segment = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        assert (segment, image.ReferencedFrameNumber) == (1 + place // 5, 1 + place % 5)
        assert list(group.FrameContentSequence[0].DimensionIndexValues) == [segment, image.ReferencedFrameNumber]
        assert np.array_equal(pixels, masks[image.ReferencedFrameNumber - 1] == segment)
    classes = [e.value for e in plain.iterall() if e.keyword == "ReferencedSOPClassUID"]
    assert len(classes) == 12 and set(classes) == {source.SOPClassUID}


def test_the_command(tmp_path: Path) -> None:
    assert main(["stream", str(CLIP), "--dicom-seg", "--output", str(tmp_path / "out"), *TINY]) == 0
    segmentation = highdicom.seg.segread(tmp_path / "out/segmentation.dcm")
    read = segmentation.get_pixels_by_source_frame(dcmread(CLIP).SOPInstanceUID, range(1, 31), combine_segments=True)
    assert read.any()
    for number, mask in enumerate(read, 1):
        with Image.open(tmp_path / f"out/masks/{number:05}.png") as shown:
            assert np.array_equal(mask, np.asarray(shown))


def test_a_single_logit_makes_one_segment(tmp_path: Path) -> None:
    clip = write_dicom(tmp_path / "clip.dcm", np.stack(frames()), **patient())
    model = folded(1)
    model.pyramid_bias -= model(torch.from_numpy(preprocess(frames()[2], model.image_size))).median()
    report = record(open_file(clip), Stream(model), tmp_path / "out", dicom_seg=True)
    assert report["states"] == {"ok": 5}
    segmentation = highdicom.seg.segread(tmp_path / "out/segmentation.dcm")
    assert [d.segment_label for d in segmentation.SegmentSequence] == ["class 1"]
    for index, frame in enumerate(frames()):
        logits = model(torch.from_numpy(preprocess(frame, model.image_size)), output_size=frame.shape)
        assert np.array_equal(segmentation.pixel_array[index], (logits[0, 0] > 0).numpy())
    assert 0.2 < segmentation.pixel_array[2].mean() < 0.8


def test_a_clip_that_names_no_patient(tmp_path: Path) -> None:
    clip = write_dicom(tmp_path / "clip.dcm", np.stack(frames()))
    with pytest.raises(InputError, match=r"clip\.dcm cannot have a DICOM Segmentation: it has no StudyInstanceUID$"):
        check_clip(clip)


def test_an_error_of_the_disk_has_no_traceback_in_it(tmp_path: Path) -> None:
    clip = write_dicom(tmp_path / "clip.dcm", np.stack(frames(5)), **patient())
    with open("/dev/full", "wb") as full, pytest.raises(OSError) as caught:
        write_segmentation(Path(full.name), clip, [None] * 5, NAMES)
    assert caught.value.strerror == "No space left on device"


def test_no_segmentation_refers_to_a_frame_that_does_not_exist(tmp_path: Path) -> None:
    clip = write_dicom(tmp_path / "clip.dcm", np.stack(frames(5)), **patient(NumberOfFrames=4))
    with pytest.raises(InputError, match=r"it has 5 frames and says 4.*correct its NumberOfFrames"):
        check_clip(clip)
