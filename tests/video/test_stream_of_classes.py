"""Several classes in a stream: legend, masks, segments, smoothing and confidence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ht_kernels as ht
from helpers.clips import frames, write_dicom
from helpers.exports import calibrated_model
from helpers.small_models import small_model
from ht_kernels.class_colors import COLORS
from ht_kernels.classes import classes_of
from ht_kernels.confidence import mask_confidence
from ht_kernels.deploy import Session
from ht_kernels.functional import grid_to_mask
from ht_kernels.logits import probabilities
from ht_kernels.media.opening import open_file
from ht_kernels.video import Stream, record
from ht_kernels.video.overlay import Overlay
from ht_kernels.video.sinks import MaskSink
from ht_kernels.video.smooth import Smoother

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("background", "cyst", "vessel")
MANY = ("background", *(f"class {i}" for i in range(1, 32)))


def patches(drawn: np.ndarray, names: tuple[str, ...]) -> list[int]:
    """The classes whose colours fill a patch of 8 x 8 pixels of a legend over a frame of gray 90, darkened to 22."""
    found = []
    for number in range(1, len(names)):
        here = (drawn == np.maximum(COLORS[number], 22)).all(-1)
        windows = np.lib.stride_tricks.sliding_window_view(here, (8, 8))
        if windows.all((2, 3)).any():
            found.append(number)
    return found


def test_the_legend_has_the_classes_in_the_frame() -> None:
    frame, mask = np.full((240, 320), 90, np.uint8), np.zeros((240, 320), np.uint8)
    overlay = Overlay(NAMES)
    assert (overlay(frame, mask) == 90).all(), "nothing found covers nothing"
    mask[100:150, 200:250] = 2
    drawn = overlay(frame, mask)
    assert patches(drawn, NAMES) == [2]
    one = (drawn != 90).any(-1) & (mask == 0)
    mask[160:200, 200:250] = 1
    drawn = overlay(frame, mask)
    assert patches(drawn, NAMES) == [1, 2]
    both = (drawn != 90).any(-1) & (mask == 0)
    assert 0 < one.sum() < both.sum() < 0.1 * mask.size


def test_the_legend_of_two_classes_is_always_there() -> None:
    frame = np.full((240, 320), 90, np.uint8)
    assert patches(Overlay(NAMES[:2])(frame, np.zeros_like(frame)), NAMES) == [1]


@pytest.mark.parametrize(("size", "left_out"), [((320, 480), False), ((96, 120), True)])
def test_a_legend_of_all_classes_fits_into_the_frame(size: tuple[int, int], left_out: bool) -> None:
    frame, mask = np.full(size, 90, np.uint8), np.zeros(size, np.uint8)
    mask[-1, :31] = np.arange(1, 32)
    drawn = Overlay(MANY)(frame, mask)
    assert (drawn[-6:-1] == 90).all(), "the line of the state stays free"
    found = patches(drawn, MANY)
    assert (found == list(range(1, len(found) + 1)) and 3 < len(found) < 31) if left_out else len(found) == 31


def test_masks_on_disk_are_numbers_in_colours(tmp_path: Path) -> None:
    sink = MaskSink(tmp_path / "masks")
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    sink.write(mask, 0)
    with Image.open(tmp_path / "masks/00001.png") as image:
        assert np.array_equal(np.asarray(image), mask)
        assert [image.convert("RGB").getpixel((i % 16, i // 16)) for i in range(32)] == list(COLORS)


def test_a_recorded_clip(tmp_path: Path) -> None:
    """Report, masks and the segments of the DICOM Segmentation."""
    highdicom = pytest.importorskip("highdicom")
    keys = "PatientID PatientName PatientBirthDate PatientSex AccessionNumber StudyID StudyDate StudyTime"
    patient = dict.fromkeys(keys.split(), "") | {"StudyInstanceUID": "1.2.4", "SeriesInstanceUID": "1.2.5"}
    clip = write_dicom(tmp_path / "clip.dcm", np.stack(frames()), **patient)
    names = ("background", "Zyste", "Gefäß\\links", "n" * 70)
    model = ht.fold(small_model(num_classes=4, class_names=names).float())
    record(open_file(clip), Stream(model), tmp_path / "out", dicom_seg=True)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert tuple(report["model"]["class_names"]) == names
    masks = []
    for i in range(1, 6):
        with Image.open(tmp_path / f"out/masks/{i:05}.png") as image:
            masks.append(np.asarray(image))
    assert len(np.unique(masks)) > 2
    segmentation = highdicom.seg.segread(tmp_path / "out/segmentation.dcm")
    labels = ["Zyste", "Gefäß/links", "n" * 64]
    assert [segment.segment_label for segment in segmentation.SegmentSequence] == labels
    assert [segment.segmented_property_type.meaning for segment in segmentation.SegmentSequence] == labels
    read = segmentation.get_pixels_by_source_frame("1.2.3", range(1, 6), combine_segments=True)
    assert np.array_equal(read, masks)


@pytest.mark.parametrize("classes", [3, 32])
def test_masks_of_grids_are_those_of_upsampled_logits(classes: int) -> None:
    logits = torch.randn(1, classes, 14, 14, generator=torch.Generator().manual_seed(0))
    whole = torch.nn.functional.interpolate(logits, (97, 131), mode="bilinear", align_corners=False)
    assert (grid_to_mask(logits, (97, 131)) == classes_of(whole)).float().mean() > 0.9999
    assert len(classes_of(whole).unique()) == classes


def test_smoothing_averages_the_probabilities_of_all_classes() -> None:
    first, second = np.random.default_rng(0).standard_normal((2, 1, 32, 4, 4), np.float32)
    pixels = np.zeros((1, 1, 8, 8), np.uint8)
    smoother = Smoother(0.3)
    smoother(first, pixels)
    expected = 0.7 * probabilities(first) + 0.3 * probabilities(second)
    np.testing.assert_allclose(np.exp(smoother(second, pixels)), expected, rtol=1e-5)


def test_confidence_is_the_margin_of_the_two_likeliest_classes() -> None:
    logits = np.full((32, 64, 64), -9, np.float32)
    logits[5, :, :32] = logits[30, :, 32:] = 2.0
    logits[7] = 1.0
    p = np.sort(probabilities(logits[None])[0], 0)[::-1]
    assert mask_confidence(logits) == pytest.approx(float(p[0, 0, 0] - p[1, 0, 0]), abs=1e-6)
    assert mask_confidence(np.roll(logits, 3, 0)) == pytest.approx(mask_confidence(logits))


@pytest.mark.parametrize("session", [False, True])
def test_a_calibrated_model_of_several_classes_streams(session: bool) -> None:
    folded = calibrated_model(class_names=NAMES)
    model = Session.open(folded, runtime="cpu", output="grid") if session else folded
    stream = Stream(model, smooth=0.5)
    assert stream.class_names == NAMES
    shown = list(stream.run(iter(frames())))
    assert len(shown) == 5 and all(one.distance is not None for one in shown)
