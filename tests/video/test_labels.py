"""A stream of a model that classifies: labels in place of masks, in the overlay, the report and a table."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ht_kernels as ht
from helpers.clips import KNOWN, OTHER, calibrated, folded, frames, write_dicom, write_video
from ht_kernels.cli import main
from ht_kernels.deploy import Session
from ht_kernels.errors import InputError
from ht_kernels.logits import probabilities
from ht_kernels.media.preprocess import preprocess
from ht_kernels.video import Stream, open_source, record
from ht_kernels.video.overlay import write_label

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(120)]


@pytest.mark.parametrize("session", [False, True])
def test_labels_are_the_models_own(session: bool) -> None:
    model = folded(task="classification")
    stream = Stream(Session.open(model, runtime="cpu") if session else model)
    shown = list(stream.run(frames()))
    for one, frame in zip(shown, frames(), strict=True):
        expected = probabilities(model(torch.from_numpy(preprocess(frame, (64, 64)))).numpy())[0]
        assert np.array_equal(one.probabilities, expected) and one.label == f"class {expected.argmax()}"
        assert (one.state, one.note, one.mask) == ("ok", "", None) and one.confidence == expected.max()
        drawn = np.repeat(frame[..., None], 3, 2)
        write_label(drawn, f"{one.label}: {one.confidence:.2f}")
        assert np.array_equal(one.overlay, drawn) and not np.array_equal(drawn[:15, :40], one.overlay[20:35, :40])
    report = stream.report()
    counts = {f"class {i}": sum(one.label == f"class {i}" for one in shown) for i in range(3)}
    assert report["labels"] == counts and sum(counts.values()) == 5
    assert report["masks_per_second"] > 0 and report["confidence"]["median"] > 0
    assert "labels" not in Stream(folded()).report()


def test_a_single_logit_tells_two_classes_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(folded(classes=1, task="classification"))
    monkeypatch.setattr(type(stream._model), "__call__", lambda self, pixels: (np.array([[2.0]], np.float32), None))
    (shown,) = stream.run([KNOWN])
    assert shown.label == "class 1" and shown.probabilities[1] == pytest.approx(1 / (1 + np.exp(-2)))


def test_labels_of_unfamiliar_frames_are_withheld() -> None:
    known, other = Stream(calibrated("classification"), unfamiliar="outline").run([KNOWN, OTHER])
    assert known.label and (other.state, other.label, other.probabilities) == ("unfamiliar", None, None)
    assert other.confidence is None and other.note.startswith("no label: unlike the training images (distance ")
    assert np.array_equal(other.overlay[:18], np.repeat(OTHER[:18, :, None], 3, 2))  # the note is below


def test_probabilities_are_smoothed(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(folded(task="classification"), smooth=0.25)
    answers = iter(np.array([[[9, 0, 0]], [[0, 9, 0]]], np.float32))
    monkeypatch.setattr(type(stream._model), "__call__", lambda self, pixels: (next(answers), None))
    first, second = stream.run([KNOWN, KNOWN])
    mean = 0.75 * first.probabilities + 0.25 * first.probabilities[[1, 0, 2]]
    assert second.label == "class 0" and np.allclose(second.probabilities, mean, atol=1e-6)


def test_a_live_stream_labels_too() -> None:
    def camera() -> Iterator[np.ndarray]:
        for frame in frames(20):
            time.sleep(0.02)
            yield frame

    stream = Stream(folded(task="classification"), live=True, stale=5)
    shown = list(stream.run(camera()))
    assert {s.state for s in shown if s.label is None} <= {"waiting", "no signal"}
    labelled = [s for s in shown if s.label is not None]
    assert labelled and {s.note.partition(" of ")[0] for s in labelled} == {"label"}
    report = stream.report()
    assert sum(report["labels"].values()) == report["states"].get("ok", 0) + report["states"].get("late", 0)
    assert report["latency_ms"]["mask_age"]["p50"] > 0


def test_what_is_recorded(tmp_path: Path) -> None:
    clip = write_dicom(tmp_path / "clip.dcm", np.stack([KNOWN, OTHER]), FrameTime="40")
    report = record(open_source(clip), Stream(calibrated("classification")), tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["labels.csv", "latency.png", "overlay.mp4", "report.json"]
    with (tmp_path / "out/labels.csv").open(newline="") as file:
        known, other = csv.DictReader(file)
    assert (known["frame"], known["seconds"], known["state"]) == ("1", "0.000", "ok")
    assert report["labels"][known["class"]] == 1
    assert sum(float(known[f"class {i}_probability"]) for i in range(3)) == pytest.approx(1, abs=1e-5)
    assert (other["state"], other["seconds"], other["class"]) == ("unfamiliar", "0.040", "")
    assert other["class 0_probability"] == ""
    assert json.loads((tmp_path / "out/report.json").read_text())["labels"] == report["labels"]
    with pytest.raises(InputError, match="holds masks, and this model classifies whole frames"):
        record(open_source(clip), Stream(calibrated("classification")), tmp_path / "new", dicom_seg=True)
    assert not (tmp_path / "new").exists()


def test_the_command_and_runtimes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same labels from a checkpoint in torch and in ONNX Runtime, and from the file exported of it."""
    pytest.importorskip("onnxruntime")
    checkpoint, exported = tmp_path / "classifier.safetensors", tmp_path / "model.onnx"
    options: Any = {"task": "classification", "num_classes": 2, "class_names": ("benign", "malignant")}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        ht.HTCLIP("timm/vit_tiny_patch16_224", **options).save(checkpoint, tower=True)
    ht.deploy.export_onnx(ht.fold(ht.HTCLIP.from_checkpoint(checkpoint).eval()), exported)
    clip = write_video(tmp_path / "video.mp4", 3)
    rows = []
    for weights, runtime in ((checkpoint, "cpu"), (checkpoint, "onnxruntime"), (exported, "onnxruntime")):
        output = tmp_path / f"{len(rows)}"
        arguments = ["--checkpoint", str(weights), "--runtime", runtime, "--output", str(output)]
        assert main(["stream", str(clip), *arguments]) == 0
        said = capsys.readouterr()
        assert "wrote overlay.mp4, labels.csv, latency.png and report.json" in said.out
        assert "classified 3 of 3 frames" in said.err and "labels: " in said.out and " benign, " in said.out
        with (output / "labels.csv").open(newline="") as file:
            rows.append([(row["class"], float(row["malignant_probability"])) for row in csv.DictReader(file)])
    for other in rows[1:]:
        assert [label for label, _ in other] == [label for label, _ in rows[0]]
        assert np.allclose([p for _, p in other], [p for _, p in rows[0]], atol=1e-4)


def test_a_label_fits_into_any_frame() -> None:
    for size in ((3, 4), (500, 20)):
        rgb = np.zeros((*size, 3), np.uint8)
        write_label(rgb, "a long name of a class 0.99")
        assert rgb.any()
    (shown,) = Stream(folded(task="classification")).run([np.zeros((400, 500), np.uint8)])
    assert shown.overlay[:20, :60].any() and not shown.overlay[100:].any()
