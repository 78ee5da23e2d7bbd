"""Measurements of streams and predictions: tables, overlays and reports, in the unit that is known."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ht_kernels as ht
from helpers.clips import KNOWN, OTHER, TINY, calibrated, frames, region, write_dicom
from ht_kernels.cli import main
from ht_kernels.errors import InputError
from ht_kernels.measurement import measure
from ht_kernels.media.frames import Box
from ht_kernels.media.scale import Scale, Spacing
from ht_kernels.prediction import Predictor
from ht_kernels.prediction.writing import predict_files
from ht_kernels.video import Stream, open_source, record
from ht_kernels.video.calipers import draw_diameters
from ht_kernels.video.measurement_tables import COLUMNS, rows_of

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def model() -> ht.deploy.FoldedHTCLIP:
    return calibrated()


def scaled_clip(path: Path, *pixels: np.ndarray) -> Path:
    """A clip whose pixels are 0.5 mm wide and 0.2 mm high."""
    tissue = region(0, 0, 63, 47)
    tissue.PhysicalDeltaX, tissue.PhysicalDeltaY = 0.05, 0.02
    tissue.PhysicalUnitsXDirection = tissue.PhysicalUnitsYDirection = 3
    return write_dicom(path, np.stack(pixels), FrameTime="40", SequenceOfUltrasoundRegions=[tissue])


def tables(folder: Path) -> list[dict[str, Any]]:
    """The rows of measurements.json, which those of measurements.csv repeat."""
    rows: list[dict[str, Any]] = json.loads((folder / "measurements.json").read_text())
    with (folder / "measurements.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {name: "" if value is None else str(value) for name, value in row.items()} for row in rows
        ]
    assert all(tuple(row) == COLUMNS for row in rows)
    return rows


def test_a_recording(model: Any, tmp_path: Path) -> None:
    """Two rows for each frame, one for each class; those of an unfamiliar frame say why they are empty."""
    clip = open_source(scaled_clip(tmp_path / "clip.dcm", KNOWN, OTHER))
    shown = list(Stream(model, measure=True).run(clip))
    assert shown[1].measurements is None
    assert shown[0].measurements == measure(shown[0].mask, (0.5, 0.2), ("class 0", "class 1", "class 2"))
    assert not np.array_equal(shown[0].overlay, next(iter(Stream(model).run(clip))).overlay)

    report = record(clip, Stream(model, measure=True), tmp_path / "out")
    rows = tables(tmp_path / "out")
    assert [(row["frame"], row["class"], row["state"]) for row in rows] == [
        (1, "class 1", "ok"),
        (1, "class 2", "ok"),
        (2, "class 1", "unfamiliar"),
        (2, "class 2", "unfamiliar"),
    ]
    first = shown[0].measurements[0]
    assert rows[0]["why"] == "" and rows[0]["unit"] == "mm" and rows[0]["pixels"] == first.pixels > 0
    assert rows[0]["area"] == pytest.approx(first.pixels * 0.1, rel=1e-5)
    assert rows[0]["long_diameter"] == pytest.approx(first.long.length, rel=1e-5)
    assert rows[0]["spacing_x_mm"] == 0.5 and rows[0]["seconds"] == 0
    assert rows[2]["why"].startswith("no mask: unlike the training images")
    measured = COLUMNS[COLUMNS.index("unit") :]
    assert all(rows[2][name] is None for name in measured) and rows[3]["seconds"] == 0.04
    assert report["measurements"]["class 1"] == rows[0]
    assert {"measurements.csv", "measurements.json"} <= set(report["files"])
    again = record(clip, Stream(model), tmp_path / "out")
    assert "measurements" not in again and not (tmp_path / "out/measurements.csv").exists()


def test_a_failed_frame_and_an_absent_class(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(model, measure=True)
    answers = iter([np.nan, 9.0])

    def answer(self: object, pixels: np.ndarray) -> tuple[np.ndarray, float]:
        logits = np.array([0, next(answers), 0], np.float32)
        return np.broadcast_to(logits[None, :, None, None], (1, 3, 4, 4)), 0.0

    monkeypatch.setattr(type(stream._model), "__call__", answer)
    clip = open_source(write_dicom(tmp_path / "clip.dcm", np.stack([KNOWN, KNOWN])))
    record(clip, stream, tmp_path / "out")
    failed, _, whole, absent = tables(tmp_path / "out")
    assert failed["state"] == "failed" and failed["why"] == "model failed: its logits are not finite"
    assert failed["pixels"] is None
    assert whole["unit"] == "px" and whole["area"] == whole["pixels"] == KNOWN.size and whole["why"] == ""
    assert absent["pixels"] == absent["regions"] == absent["area"] == 0 and absent["long_diameter"] is None
    assert absent["why"] == "no pixel has this class"


def test_a_live_stream_measures_the_mask_that_it_shows(model: Any) -> None:
    def camera() -> Iterator[np.ndarray]:
        for _ in range(20):
            time.sleep(0.02)
            yield KNOWN

    stream = Stream(model, live=True, stale=5, measure=True, spacing=0.1)
    found = [shown for shown in stream.run(camera()) if shown.mask is not None]
    assert found
    for shown in found:
        assert shown.measurements == measure(shown.mask, 0.1, ("class 0", "class 1", "class 2"))


def test_a_spacing_counts_more_than_the_file(model: Any, tmp_path: Path) -> None:
    clip = scaled_clip(tmp_path / "clip.dcm", KNOWN)
    (shown,) = Stream(model, measure=True, spacing=(0.3, 0.4)).run(open_source(clip))
    result = Predictor(model, spacing=(0.3, 0.4))(clip)
    assert shown.measurements == result.measurements and result.measurements[0].spacing == Spacing(0.3, 0.4)
    assert result.pixel_mm2 == pytest.approx(0.12)
    assert Predictor(model)(clip).measurements[0].spacing == Spacing(0.5, 0.2)
    assert Predictor(model)(KNOWN).measurements[0].unit == "px"
    assert Predictor(model, spacing=1)(KNOWN).measurements[0].unit == "mm"
    assert Predictor(model)(OTHER).measurements is None
    with pytest.raises(InputError, match=r"the spacing is 0, expected the side of a pixel"):
        Predictor(model, spacing=0)
    with pytest.raises(InputError, match=r"the spacing is \(1, 2, 3\)"):
        Stream(model, spacing=(1, 2, 3))  # type: ignore[arg-type]


def test_the_scales_of_a_dicom_file(tmp_path: Path) -> None:
    """PixelSpacing has that between rows first; regions are in centimetres, may have signs, and count more."""
    spaced = open_source(write_dicom(tmp_path / "a.dcm", KNOWN[None], PixelSpacing=[0.2, 0.1]))
    assert spaced.scales == (Scale(None, Spacing(0.1, 0.2)),)
    halves = [region(0, 0, 31, 47), region(32, 0, 63, 47)]
    for part, delta in zip(halves, (0.01, -0.02), strict=True):
        part.PhysicalDeltaX, part.PhysicalDeltaY = abs(delta), delta
        part.PhysicalUnitsXDirection = part.PhysicalUnitsYDirection = 3
    attributes = {"SequenceOfUltrasoundRegions": halves, "PixelSpacing": [1, 1]}
    source = open_source(write_dicom(tmp_path / "b.dcm", KNOWN[None], **attributes))
    left, right = Scale(Box(0, 0, 32, 48), Spacing(0.1, 0.1)), Scale(Box(32, 0, 32, 48), Spacing(0.2, 0.2))
    assert source.scales == (left, right) and source.pixel_mm2 is None
    mask = np.zeros((48, 64), np.uint8)
    mask[5:9, 40:50] = 1
    assert measure(mask, scales=source.scales)[0].spacing == Spacing(0.2, 0.2)


def test_a_classification_has_nothing_to_measure(tmp_path: Path) -> None:
    labels = calibrated("classification")
    with pytest.raises(InputError, match="measurements are of masks"):
        Stream(labels, measure=True)
    with pytest.raises(InputError, match="nothing to measure"):
        predict_files(Predictor(labels), {}, tmp_path / "out", measured=True)
    assert Predictor(labels)(KNOWN).measurements is None


def test_predictions_of_files(model: Any, tmp_path: Path) -> None:
    """Images, frames and a file that cannot be read have rows; a table of an earlier prediction goes with it."""
    clip = scaled_clip(tmp_path / "clip.dcm", KNOWN, OTHER)
    image = write_dicom(tmp_path / "image.dcm", KNOWN[None])
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    files = {"clip": clip, "image": image, "bad": tmp_path / "bad.png"}
    report = predict_files(Predictor(model), files, tmp_path / "out", measured=True)
    rows = tables(tmp_path / "out")
    assert [(Path(row["file"]).name, row["frame"], row["state"], row["unit"]) for row in rows[::2]] == [
        ("clip.dcm", 1, "ok", "mm"),
        ("clip.dcm", 2, "unfamiliar", None),
        ("image.dcm", None, "ok", "px"),
        ("bad.png", None, "failed", None),
    ]
    assert rows[-1]["why"] == report["failed"][str(tmp_path / "bad.png")]
    assert report["images"][0]["class 1_mm2"] == pytest.approx(rows[0]["area"], rel=1e-5)
    predict_files(Predictor(model), {"image": image}, tmp_path / "out")
    assert not (tmp_path / "out/measurements.csv").exists()


def test_diameters_are_drawn_where_they_are(model: Any) -> None:
    """Bright lines on dark ones between the ends, and words below; without room, above. All else stays."""
    mask = np.zeros((120, 160), np.uint8)
    mask[40:61, 30:91] = 1
    rgb = np.full((120, 160, 3), 90, np.uint8)
    (found,) = measure(mask)
    draw_diameters(rgb, [found])
    assert found.long is not None
    for x, y in found.long.ends:
        column, row = min(int(x), 159), min(int(y), 119)
        assert (rgb[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] == 255).all(2).any()
    changed = (rgb != 90).any(2)
    assert changed[61:90].any() and not changed[:30].any() and not changed[:, 110:].any()
    low = np.roll(mask, 58, 0)
    rgb = np.full((120, 160, 3), 90, np.uint8)
    draw_diameters(rgb, measure(low))
    assert (rgb[70:90] != 90).any()
    nothing = np.full((120, 160, 3), 90, np.uint8)
    draw_diameters(nothing, measure(np.zeros((120, 160), np.uint8)))
    assert (nothing == 90).all()


def test_rows_have_the_same_columns_whatever_was_found() -> None:
    made = rows_of(measure(np.eye(3, dtype=np.uint8)), ("b", "a"), file=None, state="ok", why="")
    none = rows_of(None, ("b", "a"), file=None, state="stale", why="too old")
    assert tuple(next(made)) == tuple(next(none)) == COLUMNS


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = write_dicom(tmp_path / "clip.dcm", np.stack(frames(2)), FrameTime="40")
    words = ["stream", str(clip), *TINY, "--measure", "--spacing", "0.1,0.2", "--output", str(tmp_path / "out")]
    assert main(words) == 0
    rows = tables(tmp_path / "out")
    assert [row["frame"] for row in rows] == [1, 2] and {row["unit"] for row in rows} == {"mm"}
    said = capsys.readouterr().out
    assert "measurements.csv, measurements.json" in said
    again = ["predict", str(clip), "--weights", "phantom", "--measure", "--output", str(tmp_path / "new")]
    assert main(again) == 0
    assert {row["unit"] for row in tables(tmp_path / "new") if row["state"] == "ok"} <= {"px"}
    assert "masks/, measurements.csv, measurements.json, overlays/" in capsys.readouterr().out
    assert main(again) == 2
    assert "measurements.csv is there already" in capsys.readouterr().err
    assert main([*again, "--overwrite"]) == 0
