"""Frames that are unlike the training images: withheld or outlined, counted, and kept out of smoothing."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import ht_kernels as ht
from helpers.clips import KNOWN, OTHER, calibrated, folded, write_dicom
from ht_kernels.cli import main, running
from ht_kernels.deploy import Session
from ht_kernels.errors import InputError
from ht_kernels.video import Stream, open_source, record

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(120)]

RED = (255, 50, 50)


@pytest.mark.parametrize("session", [False, True])
def test_masks_of_unfamiliar_frames_are_withheld_and_counted(session: bool) -> None:
    model = calibrated()
    stream = Stream(Session.open(model, runtime="cpu") if session else model)
    known, other, again = stream.run([KNOWN, OTHER, KNOWN])
    assert [s.state for s in (known, other, again)] == ["ok", "unfamiliar", "ok"]
    assert known.mask.any() and other.mask is None and np.array_equal(again.mask, known.mask)
    limit = stream.report()["familiarity"]["limit"]
    assert known.distance < 0.1 * limit and other.distance == pytest.approx(2 * limit, rel=1e-3)
    assert known.percentile < 10 and other.percentile == 100
    assert 0 < known.confidence < 1 and other.confidence is None
    words = f"no mask: unlike the training images (distance {other.distance:.2f}, limit {limit:.2f})"
    assert other.note == words and not known.note
    assert np.array_equal(other.overlay[:18], np.repeat(OTHER[:18, :, None], 3, 2))  # the note is below
    report = stream.report()
    assert report["states"] == {"ok": 2, "unfamiliar": 1}
    found = report["familiarity"]
    assert found["unfamiliar"] == pytest.approx(1 / 3, abs=1e-4)
    assert found["distance"]["median"] < limit < found["distance"]["p95"] == pytest.approx(other.distance, rel=0.02)
    assert report["confidence"] == pytest.approx(dict.fromkeys(("median", "p5"), known.confidence), rel=0.02)


def test_an_outline_is_drawn_by_request() -> None:
    known, other = Stream(calibrated(), unfamiliar="outline").run([KNOWN, OTHER])
    assert other.state == "unfamiliar" and other.mask is None and other.note.startswith("outline only: ")
    red = (other.overlay[:18] == RED).all(2)
    assert 0 < red.mean() < 0.5
    assert np.array_equal(other.overlay[:18][~red], np.repeat(OTHER[:18, :, None], 3, 2)[~red])
    assert not (known.overlay == RED).all(2).any()
    with pytest.raises(InputError, match="unfamiliar is 'draw', expected withhold or outline"):
        Stream(calibrated(), unfamiliar="draw")


def test_files_hold_nothing_for_unfamiliar_frames(tmp_path: Path) -> None:
    patient = "PatientID PatientName PatientBirthDate PatientSex AccessionNumber StudyID StudyDate StudyTime"
    uids = {"StudyInstanceUID": "1.2.4", "SeriesInstanceUID": "1.2.5"}
    clip = write_dicom(tmp_path / "clip.dcm", np.stack([KNOWN, OTHER]), **dict.fromkeys(patient.split(), ""), **uids)
    highdicom = pytest.importorskip("highdicom")
    report = record(open_source(clip), Stream(calibrated()), tmp_path / "out", dicom_seg=True)
    assert [path.name for path in (tmp_path / "out/masks").iterdir()] == ["00001.png"]
    read = highdicom.seg.segread(tmp_path / "out/segmentation.dcm")
    pixels = [read.get_pixels_by_source_frame("1.2.3", [n], combine_segments=True).any() for n in (1, 2)]
    assert pixels == [True, False]
    assert json.loads((tmp_path / "out/report.json").read_text())["familiarity"] == report["familiarity"]


def answers(monkeypatch: pytest.MonkeyPatch, stream: Stream, rows: list[tuple[list[float], float]]) -> None:
    """Let the model of a stream answer with these logits, the same for all pixels, and distances."""
    left: Iterator[tuple[list[float], float]] = iter(rows)

    def answer(self: object, pixels: np.ndarray) -> tuple[np.ndarray, float]:
        logits, distance = next(left)
        return np.broadcast_to(np.array(logits, np.float32)[None, :, None, None], (1, 3, 4, 4)), distance

    monkeypatch.setattr(type(stream._model), "__call__", answer)


def test_smoothing_does_not_reach_over_unfamiliar_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(calibrated(), smooth=0.1)
    answers(monkeypatch, stream, [([0, 9, 0], 0.0), ([0, 0, 9], math.inf), ([1, 0, 0], 0.0)])
    shown = list(stream.run([KNOWN] * 3))
    assert [s.state for s in shown] == ["ok", "unfamiliar", "ok"]
    assert (shown[0].mask == 1).all() and (shown[2].mask == 0).all()


def test_a_distance_that_is_no_number_is_unfamiliar(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(calibrated())
    answers(monkeypatch, stream, [([0, 9, 0], math.nan), ([0, 9, 0], math.inf)])
    assert [s.state for s in stream.run([KNOWN] * 2)] == ["unfamiliar"] * 2
    report = stream.report()
    json.dumps(report, allow_nan=False)
    assert report["familiarity"]["unfamiliar"] == 1 and report["familiarity"]["distance"] is None
    assert report["masks_per_second"] == 0 and "mask_age" not in report["latency_ms"]


def test_a_live_stream_withholds_too() -> None:
    def camera() -> Iterator[np.ndarray]:
        for frame in (KNOWN, OTHER):
            for _ in range(20):
                time.sleep(0.02)
                yield frame

    stream = Stream(calibrated(), live=True, stale=5)
    shown = list(stream.run(camera()))
    last = [s for s in shown if s.state in ("ok", "late", "unfamiliar")]
    assert last[-1].state == "unfamiliar" and last[-1].mask is None and last[-1].percentile == 100
    assert {s.state for s in last if s.mask is not None} <= {"ok", "late"} and any(s.mask is not None for s in last)


def test_a_model_that_cannot_tell() -> None:
    stream = Stream(folded())
    (shown,) = stream.run([OTHER])
    assert shown.state == "ok" and shown.distance is None and shown.percentile is None
    assert stream.report()["familiarity"] is None


def test_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    model = calibrated()
    monkeypatch.setattr(running, "open_model", lambda args: (model, True))
    clip = write_dicom(tmp_path / "clip.dcm", np.stack([KNOWN, OTHER]))
    seen: list[str] = []
    draw = ht.video.stream.Stream._draw

    def watch(self: Stream, item: object, of: object, state: str, note: str) -> object:
        seen.append(note)
        return draw(self, item, of, state, note)

    monkeypatch.setattr(ht.video.stream.Stream, "_draw", watch)
    arguments = [
        "stream",
        str(clip),
        "--checkpoint",
        "phantom",
        "--output",
        str(tmp_path / "out"),
        "--unfamiliar",
        "outline",
    ]
    assert main(arguments) == 0
    assert seen[1].startswith("outline only: ") and "1 unfamiliar" in capsys.readouterr().out
