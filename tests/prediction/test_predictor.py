"""Predictions of arrays, images and clips: what a stream shows of single frames, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

import ht_kernels as ht
from helpers.clips import KNOWN, OTHER, calibrated, folded, frames, region, write_dicom, write_video
from helpers.small_towers import small_tower
from ht_kernels.deploy import Session
from ht_kernels.errors import InputError
from ht_kernels.media.frames import Box
from ht_kernels.media.opening import open_file
from ht_kernels.prediction import Prediction, Predictor
from ht_kernels.video import Stream

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(120)]


def rgb(gray: np.ndarray) -> np.ndarray:
    return np.repeat(gray[..., None], 3, 2)


def mixed() -> ht.deploy.FoldedHTCLIP:
    """A model whose masks have several classes, and which cannot tell what is unfamiliar."""
    model = calibrated()
    model.familiarity = None
    return model


def same(ours: np.ndarray | None, theirs: np.ndarray | None) -> bool:
    return (ours is None) == (theirs is None) and (ours is None or np.array_equal(ours, theirs))


@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("unfamiliar", ["withhold", "outline"])
@pytest.mark.parametrize("crop", [None, Box(5, 3, 40, 33), "auto"])
@pytest.mark.parametrize("runtime", [None, "cpu"])
def test_a_prediction_is_what_a_stream_shows(
    task: str, unfamiliar: Any, crop: Any, runtime: str | None, tmp_path: Path
) -> None:
    """Mask, label, state, confidence, distance and overlay, from a folded model and a session, arrays and a file."""
    model: Any = calibrated(task)
    if runtime:
        model = Session.open(model, runtime=runtime, output="grid" if task == "segmentation" else None)
    predictor = Predictor(model, crop=crop, unfamiliar=unfamiliar)
    states = set()
    for frame in (KNOWN, rgb(KNOWN), OTHER):
        (shown,) = Stream(model, crop=crop, unfamiliar=unfamiliar).run([frame])
        Image.fromarray(frame).save(tmp_path / "image.png")
        for ours in (predictor(frame), predictor(tmp_path / "image.png"), next(predictor.frames([frame]))):
            assert (ours.state, ours.note, ours.label) == (shown.state, shown.note, shown.label)
            assert (ours.distance, ours.percentile) == (shown.distance, shown.percentile)
            assert ours.confidence == shown.confidence and same(ours.mask, shown.mask)
            assert np.array_equal(ours.overlay(), shown.overlay) and ours.overlay().dtype == np.uint8
            if task == "classification":
                assert same(ours.probability, shown.probabilities)
        states.add(shown.state)
    assert "ok" in states and ("unfamiliar" in states or crop is not None)


def test_probabilities_are_those_of_the_mask() -> None:
    model = mixed()
    result = Predictor(model)(KNOWN)
    assert len(np.unique(result.mask)) > 1
    probability = result.probability
    assert probability is not None and probability.dtype == np.float32 and probability.shape == (3, 48, 64)
    assert np.allclose(probability.sum(0), 1, atol=1e-6) and np.array_equal(probability.argmax(0), result.mask)
    cropped = Predictor(model, crop=Box(8, 4, 30, 20))(KNOWN).probability
    assert cropped is not None
    assert (cropped[0, :4] == 1).all() and (cropped[1:, :4] == 0).all() and (cropped[0, 4:24, 8:38] < 1).any()


def test_a_single_logit_has_two_classes() -> None:
    result = Predictor(folded(classes=1))(KNOWN)
    assert result.classes == ("background", "class 1") and result.probability.shape == (2, 48, 64)
    assert np.array_equal(result.probability[1] > 0.5, result.mask == 1)
    assert result.areas == {"class 1": int((result.mask == 1).sum())}


def test_what_is_withheld_of_an_unfamiliar_image() -> None:
    for task in ("segmentation", "classification"):
        other = Predictor(calibrated(task))(OTHER)
        assert other.state == "unfamiliar" and "unlike the training images" in other.note
        assert (other.mask, other.probability, other.areas, other.label, other.confidence) == (None,) * 5
        assert other.row()["state"] == "unfamiliar" and not any("_" in name for name in other.row())


def test_one_image_or_a_list_in_every_form(tmp_path: Path) -> None:
    model = mixed()
    predictor = Predictor(model)
    Image.fromarray(KNOWN).save(tmp_path / "image.png")
    one = write_dicom(tmp_path / "one.dcm", KNOWN[None])
    forms = [KNOWN, rgb(KNOWN), KNOWN / 255, (KNOWN / 255).astype(np.float32), Image.fromarray(KNOWN), one]
    forms += [tmp_path / "image.png", str(tmp_path / "image.png"), Image.fromarray(rgb(KNOWN))]
    results = predictor(forms)
    assert isinstance(results, list) and len(results) == len(forms)
    assert all(np.array_equal(result.mask, results[0].mask) for result in results)
    assert [len(predictor(group)) for group in ([], [KNOWN], (KNOWN, OTHER))] == [0, 1, 2]
    assert isinstance(predictor(KNOWN), Prediction)
    assert np.array_equal(ht.predict(model, KNOWN).mask, results[0].mask)
    assert [result.state for result in ht.predict(model, [KNOWN, OTHER], crop="auto")] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.uint8), InputError, r"shape \(2, 8, 8, 3\), expected gray \(H, W\) or RGB"),
        (np.zeros((8, 8, 4), np.uint8), InputError, r"shape \(8, 8, 4\)"),
        (np.zeros((3, 8, 8), np.uint8), InputError, "channels last"),
        (np.zeros((0, 8), np.uint8), InputError, r"is empty: its shape is \(0, 8\)"),
        (np.zeros((8, 8), np.uint16), InputError, "dtype uint16, of which nothing says what is white"),
        (np.zeros((8, 8), bool), InputError, "dtype bool"),
        (np.full((8, 8), 2.0), InputError, "float64 has values from 2 to 2, expected 0 to 1"),
        (np.full((8, 8), np.nan), InputError, "values from nan to nan"),
        (torch.zeros(8, 8), TypeError, "a path, a NumPy array or an image of Pillow, .* got Tensor"),
        (None, TypeError, "got NoneType"),
        ("missing.png", InputError, "there is no file or folder missing.png"),
    ],
)
def test_what_is_no_image(image: Any, error: type[Exception], message: str) -> None:
    predictor = Predictor(mixed())
    for inputs in (image, [KNOWN, image]):
        with pytest.raises(error, match=message):
            predictor(inputs)


def test_a_clip_is_iterated_over(tmp_path: Path) -> None:
    model = mixed()
    clip = write_dicom(tmp_path / "clip.dcm", np.stack(frames()), FrameTime="40")
    predictor = Predictor(model)
    shown = list(Stream(model).run(open_file(clip)))
    found = list(predictor.frames(clip))
    assert [(f.index, f.seconds) for f in found] == [(s.index, s.seconds) for s in shown]
    assert all(np.array_equal(ours.mask, theirs.mask) for ours, theirs in zip(found, shown, strict=True))
    assert {f.file for f in found} == {clip} and found[1].row()["frame"] == 2
    assert len(list(predictor.frames(write_video(tmp_path / "video.mp4", 3)))) == 3
    with pytest.raises(InputError, match=r"clip\.dcm has several frames, .*: iterate over Predictor"):
        predictor(clip)
    (tmp_path / "folder").mkdir()
    Image.fromarray(KNOWN).save(tmp_path / "folder/1.png")
    with pytest.raises(
        InputError, match=r"is a folder, and a call takes one image: iterate over Predictor\.frames of it"
    ):
        predictor(tmp_path / "folder")


def test_the_scan_that_a_dicom_file_declares_is_cropped(tmp_path: Path) -> None:
    clip = write_dicom(tmp_path / "clip.dcm", np.stack([KNOWN]), SequenceOfUltrasoundRegions=[region(10, 8, 49, 40)])
    model = mixed()
    expected = Predictor(model, crop=Box(10, 8, 40, 33))(KNOWN)
    (shown,) = Stream(model, crop="auto").run(open_file(clip))
    predictor = Predictor(model, crop="auto")
    for ours in (predictor(clip), *predictor.frames(clip)):
        assert np.array_equal(ours.mask, expected.mask) and np.array_equal(ours.mask, shown.mask)
        assert ours.confidence == expected.confidence == shown.confidence
    assert not np.array_equal(expected.mask, predictor(KNOWN).mask)


def test_areas_are_in_pixels_and_where_a_dicom_file_has_a_scale_in_mm2(tmp_path: Path) -> None:
    def pixel(**attributes: Any) -> float | None:
        return open_file(write_dicom(tmp_path / "one.dcm", KNOWN[None], **attributes)).pixel_mm2

    def scaled(left: int, right: int, x: float, y: float, unit: int = 3) -> Any:
        found = region(left, 0, right, 40)
        found.PhysicalDeltaX, found.PhysicalDeltaY = x, y
        found.PhysicalUnitsXDirection = found.PhysicalUnitsYDirection = unit
        return found

    half = scaled(0, 30, 0.05, 0.02)
    assert pixel() is None and pixel(PixelSpacing=[0.5, 0.2]) == pytest.approx(0.1)
    assert pixel(SequenceOfUltrasoundRegions=[half]) == pytest.approx(0.1)  # of 0.5 mm by 0.2 mm
    assert pixel(SequenceOfUltrasoundRegions=[half, scaled(31, 60, 0.05, -0.02)]) == pytest.approx(0.1)
    assert pixel(SequenceOfUltrasoundRegions=[half, scaled(31, 60, 0.04, 0.02)]) is None
    assert pixel(SequenceOfUltrasoundRegions=[scaled(0, 30, 0.05, 0.02, unit=4)], PixelSpacing=[1, 1]) is None
    assert pixel(SequenceOfUltrasoundRegions=[scaled(0, 99, 0.05, 0.02)], PixelSpacing=[1, 1]) is None  # was cut
    assert pixel(PixelSpacing=[0, 0]) is None and pixel(SequenceOfUltrasoundRegions=[region(0, 0, 9, 9)]) is None

    write_dicom(tmp_path / "one.dcm", KNOWN[None], SequenceOfUltrasoundRegions=[half])
    result = Predictor(calibrated())(tmp_path / "one.dcm")
    counts = np.bincount(result.mask.ravel(), minlength=3)
    assert result.areas == {"class 1": counts[1], "class 2": counts[2]} and counts[1:].any()
    assert result.areas_mm2 == pytest.approx({name: count * 0.1 for name, count in result.areas.items()})
    row = result.row()
    assert (row["class 1_pixels"], row["class 1_share"]) == (counts[1], counts[1] / KNOWN.size)
    assert row["class 2_mm2"] == pytest.approx(counts[2] * 0.1) and row["file"] == str(tmp_path / "one.dcm")
    assert replace(result, scales=()).areas_mm2 is None


def test_rows_of_a_classification() -> None:
    result = Predictor(calibrated("classification"))(KNOWN)
    row = result.row()
    probabilities = [row[f"class {i}_probability"] for i in range(3)]
    assert sum(probabilities) == pytest.approx(1, abs=1e-6) and row["class"] == result.label
    assert result.label == f"class {int(np.argmax(probabilities))}" and result.confidence == max(probabilities)


def test_names_that_are_the_same_are_told_apart() -> None:
    model = ht.HTCLIP(
        small_tower("timm").float(),
        num_classes=3,
        bottleneck=8,
        reduce_dim=16,
        feature_layers=(0, 2),
        class_names="aba",
    )
    result = Predictor(model.eval())(KNOWN)
    assert result.classes == ("a 0", "b 1", "a 2") and len(result.areas) == 2


def test_what_is_saved(tmp_path: Path) -> None:
    result = Predictor(calibrated())(KNOWN)
    result.save(tmp_path / "out", probability=True)
    result.save(tmp_path / "out", "a/b")
    names = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file())
    images = ["masks/a/b.png", "masks/image.png", "overlays/a/b.png", "overlays/image.png"]
    assert names == [*images, "probabilities/image.npz"]
    with Image.open(tmp_path / "out/masks/image.png") as mask, Image.open(tmp_path / "out/overlays/image.png") as drawn:
        assert mask.mode == "P" and np.array_equal(np.asarray(mask), result.mask)
        assert np.array_equal(np.asarray(drawn), result.overlay())
    with np.load(tmp_path / "out/probabilities/image.npz") as saved:
        assert np.array_equal(saved["probability"], result.probability) and saved["classes"].tolist()[1] == "class 1"
    Predictor(calibrated())(OTHER).save(tmp_path / "other", probability=True)
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["overlays"]
    write_dicom(tmp_path / "1.2.840", KNOWN[None])
    Predictor(mixed())(tmp_path / "1.2.840").save(tmp_path / "numbers")
    assert (tmp_path / "numbers/masks/1.2.840.png").exists()
    first, second = Predictor(mixed()).frames([KNOWN, OTHER])
    second.save(tmp_path / "clip")
    assert (tmp_path / "clip/masks/image/00002.png").exists() and first.index == 0


@pytest.mark.parametrize("name", ["", "../out", "/out", "a/../../out", ".."])
def test_names_that_lead_out_of_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected one within the folder"):
        Predictor("phantom")(KNOWN).save(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_a_plot() -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = figure.subplots()
    result = Predictor(calibrated())(KNOWN)
    assert result.plot(axes) is axes
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert words == [f"{name}, {pixels / KNOWN.size:.1%}" for name, pixels in result.areas.items() if pixels] != []
    assert axes.get_title() == f"confidence {result.confidence:.2f}" and len(axes.images) == 1
    other = Predictor(calibrated())(OTHER).plot(figure.subplots())
    assert other.get_title() == "unfamiliar" and other.get_legend() is None
    label = Predictor(calibrated("classification"))(KNOWN)
    assert label.plot(figure.subplots()).get_title() == f"{label.label}: {label.confidence:.2f}"


def test_models_in_every_form(whole_checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = ht.HTCLIP.from_checkpoint(whole_checkpoint).eval()
    exported = tmp_path / "model.onnx"
    ht.deploy.export_onnx(ht.fold(model), exported)
    results = [ht.predict(one, KNOWN) for one in (model, ht.fold(model), whole_checkpoint, str(exported), exported)]
    masks = [result.mask for result in results]
    assert masks[0].any() and all(np.mean(mask == masks[0]) > 0.999 for mask in masks)
    assert all(result.confidence == pytest.approx(results[0].confidence, abs=1e-3) for result in results)
    for one in (model, ht.fold(model), ht.deploy.Session.open(exported)):
        assert np.mean(one.predict(KNOWN).mask == masks[0]) > 0.999
        assert len(one.predict([KNOWN, KNOWN], crop="auto")) == 2
    assert Predictor("phantom").classes == ("background", "lesion")
    with pytest.raises(InputError, match="no weights of this name"):
        Predictor("brest")
    with pytest.raises(TypeError, match="a folded model or a session, got int"):
        Predictor(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="crop is 'whole'"):
        Predictor(model, crop="whole")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="unfamiliar is 'show'"):
        Predictor(model, unfamiliar="show")  # type: ignore[arg-type]


def test_what_cannot_be_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before a checkpoint or a file is read."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(ht.HTCLIP, "from_checkpoint", Mock(side_effect=AssertionError))
    for model, message in (
        ("phantom", "compiled needs an NVIDIA GPU, and there is none that torch can use: leave it out"),
        (mixed(), "compiled is for a model on an NVIDIA GPU, and this one is on cpu: leave it out"),
        (Session.open(mixed(), runtime="cpu"), "this is a session: pass it to Session.open, or leave it out"),
        (tmp_path / "new.onnx", r"compiled is for a folded model, and .*new\.onnx is a file: leave it out"),
    ):
        with pytest.raises(InputError, match=message):
            Predictor(model, compiled=True)  # type: ignore[arg-type]


def test_logits_that_are_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(mixed())
    answer = np.full((1, 3, 4, 4), np.nan, np.float32), None
    monkeypatch.setattr(type(predictor._model), "__call__", lambda self, pixels: answer)
    with pytest.raises(InputError, match="logits are not finite"):
        predictor(KNOWN)


def test_no_mask_of_another_image_stays_beside_an_unfamiliar_one(tmp_path: Path) -> None:
    known, other = Predictor(calibrated())([KNOWN, OTHER])
    known.save(tmp_path, "x", probability=True)
    other.save(tmp_path, "x", probability=True)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert other.state == "unfamiliar" and left == ["overlays/x.png"]


def test_options_that_predict_does_not_have() -> None:
    with pytest.raises(TypeError, match="no option device: its options are crop, unfamiliar, compiled and spacing; a"):
        ht.predict("phantom", KNOWN, device="cuda")
    with pytest.raises(TypeError, match="are crop, unfamiliar, compiled and spacing; did you mean unfamiliar"):
        ht.predict("phantom", KNOWN, unfamilar="outline")
