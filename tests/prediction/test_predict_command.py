"""The command predict, as a user calls it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

import ht_kernels as ht
from helpers.clips import KNOWN, OTHER, calibrated, frames, write_dicom, write_video
from helpers.dicom import patient
from ht_kernels.cli import main, predict, running
from ht_kernels.deploy import gpu
from ht_kernels.errors import InputError
from ht_kernels.media.opening import open_file
from ht_kernels.prediction import Predictor, writing
from ht_kernels.prediction.inputs import find_files
from ht_kernels.words import counted

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def models() -> dict[str, ht.deploy.FoldedHTCLIP]:
    return {task: calibrated(task) for task in ("segmentation", "classification")}


@pytest.fixture
def calls(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Small models take the place of weights: of breast one that segments, of phantom one that classifies.

    It is a list of what was opened.
    """
    opened: list[Any] = []

    def open_model(args: Any) -> tuple[Any, bool]:
        opened.append(args)
        return models[{"breast": "segmentation", "phantom": "classification"}[str(args.checkpoint)]], True

    monkeypatch.setattr(running, "open_model", open_model)
    return opened


def save(path: Path, pixels: np.ndarray = KNOWN) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def written(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_images_and_clips(
    calls: list[Any], models: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every kind of input in one call: the results are those of a Predictor, in tables, masks and overlays."""
    one, other = save(tmp_path / "in/one.png"), save(tmp_path / "in/deep/other.png", OTHER)
    clip = write_dicom(tmp_path / "clip.dcm", np.stack([KNOWN, OTHER]), FrameTime="40")
    video = write_video(tmp_path / "video.mp4", 3)
    output = tmp_path / "out"
    arguments = [str(path) for path in (tmp_path / "in", clip, video)]
    assert main(["predict", *arguments, "--weights", "breast", "--output", str(output), "--probabilities"]) == 0
    said = capsys.readouterr()
    assert "frames of clip.dcm: 2 of 2" in said.err and "predicting files: 4 of 4" in said.err
    assert f"{other}: unfamiliar, no mask: unlike" in said.out and f"{one}: class " in said.out
    assert "wrote masks/, overlays/, predictions.csv and predictions.json" in said.out
    assert f"\n{clip}: 2 frames, 1 ok, 1 unfamiliar\n" in said.out and f"\n{video}: 3 frames, " in said.out
    states = [row["state"] for row in table(output)]
    assert f"4 of 4 inputs have a result: {states.count('unfamiliar')} frames unfamiliar, " in said.out
    assert f", {counted(states.count('ok'), 'frame')} ok\n" in said.out
    predictor = Predictor(models["segmentation"])
    result = predictor(one)
    rows = table(output)
    places = [(row["file"], row["frame"], row["state"]) for row in rows]
    assert places[:2] == [(str(other), "", "unfamiliar"), (str(one), "", "ok")]
    assert places[2:4] == [(str(clip), "1", "ok"), (str(clip), "2", "unfamiliar")] and len(places) == 7
    assert {place[:2] for place in places[4:]} == {(str(video), str(n)) for n in (1, 2, 3)}
    seen = [row["state"] == "ok" for row in rows[4:]]
    assert rows[1]["class 1_pixels"] == str(result.areas["class 1"]) and rows[0]["class 1_pixels"] == ""
    assert float(rows[1]["confidence"]) == result.confidence
    masks = [f"masks/video/{n + 1:05}.png" for n in range(3) if seen[n]]
    expected = ["masks/clip/00001.png", "masks/one.png", *masks, "overlays/clip.mp4", "overlays/deep/other.png"]
    expected += ["overlays/one.png", "overlays/video.mp4", "predictions.csv", "predictions.json", "settings.yaml"]
    expected += ["probabilities/clip/00001.npz", "probabilities/one.npz"]
    expected += [mask.replace("masks", "probabilities").replace("png", "npz") for mask in masks]
    assert written(output) == sorted(expected)
    with Image.open(output / "masks/one.png") as mask, Image.open(output / "overlays/one.png") as overlay:
        assert mask.mode == "P" and np.array_equal(np.asarray(mask), result.mask)
        assert np.array_equal(np.asarray(overlay), result.overlay())
    with np.load(output / "probabilities/one.npz") as saved:
        assert np.array_equal(saved["probability"], result.probability)
    with av.open(output / "overlays/clip.mp4") as container:
        assert container.streams.video[0].frames == 2 and container.streams.video[0].average_rate == 25
    report = json.loads((output / "predictions.json").read_text())
    assert len(report["images"]) == 7 and report["failed"] == {} and report["weights"] == "breast"
    assert report["images"][1] == result.row() and report["model"]["num_classes"] == 3


def test_a_classification(calls: list[Any], models: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    image, clip = save(tmp_path / "one.png"), write_video(tmp_path / "video.mp4", 2)
    output, weights = tmp_path / "out", ["--weights", "phantom"]
    assert main(["predict", str(image), str(clip), *weights, "--output", str(output)]) == 0
    assert written(output) == [
        "overlays/one.png",
        "overlays/video.mp4",
        "predictions.csv",
        "predictions.json",
        "settings.yaml",
    ]
    result, row = Predictor(models["classification"])(image), table(output)[0]
    assert row["class"] == result.label and float(row["confidence"]) == result.confidence
    assert [float(row[f"class {i}_probability"]) for i in range(3)] == result.probability.tolist()
    said = capsys.readouterr().out
    assert f"{image}: {result.label}, probability {result.confidence:.2f}" in said and "masks/" not in said
    assert main(["predict", str(image), *weights, "--output", str(tmp_path / "new"), "--probabilities"]) == 2
    assert "predictions.csv has the probability of every class" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_file_that_cannot_be_read(calls: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The others go on, and the status is 2; where there is no other, nothing is written."""
    one, bad, output = save(tmp_path / "one.png"), tmp_path / "bad.png", tmp_path / "out"
    bad.write_bytes(one.read_bytes()[:100])
    arguments = ["--weights", "breast", "--output", str(output)]
    assert main(["predict", str(bad), str(one), *arguments]) == 2
    said = capsys.readouterr()
    *_, first, last = said.err.splitlines()
    assert "\n1 of 2 inputs have a result: 1 frame ok\n" in said.out
    assert first.startswith(f"no result: {bad} ")
    assert last == f"ht-kernels predict: 1 of 2 inputs have no result: {bad}; the others are in {output}"
    assert written(output) == [
        "masks/one.png",
        "overlays/one.png",
        "predictions.csv",
        "predictions.json",
        "settings.yaml",
    ]
    assert [(row["file"], row["state"]) for row in table(output)] == [(str(bad), "failed"), (str(one), "ok")]
    assert str(bad) in json.loads((output / "predictions.json").read_text())["failed"][str(bad)]
    assert main(["predict", str(bad), *arguments[:3], str(tmp_path / "none")]) == 2
    assert f"there is no result, for no input can be used; {bad}" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert main(["predict", str(one), *arguments[:3], str(tmp_path / "none"), "--crop", "0,0,999,9"]) == 2
    assert f"{one}: the crop 0,0,999,9 is not inside a frame" in capsys.readouterr().err


def test_of_a_clip_that_breaks_off_nothing_stays(models: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    clip, one = write_video(tmp_path / "video.mp4", 5), save(tmp_path / "one.png")

    def broken(path: Path) -> Any:
        source = open_file(path)

        def decode() -> Iterator[tuple[float | None, np.ndarray]]:
            for index, frame in enumerate(source.decode()):
                if index == 2:
                    raise InputError(f"{path}: frame 3 cannot be decoded")
                yield frame

        return replace(source, decode=decode) if path == clip else source

    monkeypatch.setattr(writing, "open_file", broken)
    predictor = Predictor(models["segmentation"])
    report = writing.predict_files(predictor, {"video": clip, "one": one}, tmp_path / "out")
    assert report["failed"] == {str(clip): f"{clip}: frame 3 cannot be decoded"}
    assert [row["state"] for row in report["images"]] == ["failed", "ok"]
    assert not any("video" in name for name in written(tmp_path / "out"))


def test_a_disk_that_is_full_is_no_bad_input(models: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    one = save(tmp_path / "one.png")

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "save_into", full)
    with pytest.raises(InputError, match="cannot be written: No space left"):
        writing.predict_files(Predictor(models["segmentation"]), {"one": one}, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png"]


def test_an_interrupt_leaves_nothing(calls: list[Any], tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "_say", interrupt)
    one = save(tmp_path / "one.png")
    assert main(["predict", str(one), "--weights", "breast", "--output", str(tmp_path / "out")]) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["one.png"]
    assert "interrupted; nothing was written" in capsys.readouterr().err


def test_what_is_wrong_is_said_before_a_model_is_opened(
    calls: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "capability", lambda: None)
    one = save(tmp_path / "one.png")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/predictions.csv").write_text("")
    (tmp_path / "empty").mkdir()
    save(tmp_path / "masks of experts/masks/one.png")
    new = str(tmp_path / "new")
    for arguments, message in [
        ([str(tmp_path / "missing.png"), "--output", new], "there is no file or folder"),
        ([str(tmp_path / "empty"), "--output", new], "there is no image, DICOM file or video in"),
        (
            [str(one), "--output", str(tmp_path / "full")],
            "is there already: name another output, or replace it with --overwrite",
        ),
        ([str(one), "--output", str(one)], "is a file, expected a folder"),
        ([str(one), "--output", str(tmp_path), "--overwrite"], "lies in the output"),
        ([str(one), "--output", new, "--crop", "1,2"], "--crop is '1,2', expected auto or four numbers"),
        ([str(one), "--output", new, "--image-size", "0"], "--image-size 0 was given"),
        ([str(one), "--output", new, "--compile"], "--compile needs an NVIDIA GPU, and there is none that can be used"),
        (
            [str(one), "--output", str(tmp_path / "masks of experts"), "--overwrite"],
            "one.png is there already, and no earlier run of this command wrote it: move it, or name another output",
        ),
    ]:
        assert main(["predict", *arguments, "--weights", "breast"]) == 2, message
        assert message in capsys.readouterr().err
    assert calls == [] and not Path(new).exists()


def test_compiled(
    calls: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The predictor is asked for it, of a model opened for CUDA graphs; here it is on the CPU, which is refused."""
    monkeypatch.setattr(gpu, "capability", lambda: (9, 0))
    one, output = save(tmp_path / "one.png"), tmp_path / "new"
    assert main(["predict", str(one), "--weights", "breast", "--output", str(output), "--compile"]) == 2
    assert "compiled is for a model on an NVIDIA GPU, and this one is on cpu" in capsys.readouterr().err
    assert [args.runtime for args in calls] == ["cuda_graph"] and not output.exists()


def test_results_are_replaced_by_request(calls: list[Any], tmp_path: Path) -> None:
    """All that an earlier prediction wrote, and nothing else."""
    one, two, output = save(tmp_path / "one.png"), save(tmp_path / "two.png"), tmp_path / "out"
    arguments = ["--weights", "breast", "--output", str(output)]
    assert main(["predict", str(one), *arguments, "--probabilities"]) == 0
    (output / "notes.txt").write_text("mine")
    save(output / "masks/expert.png")
    assert main(["predict", str(two), *arguments]) == 2 and "masks/one.png" in written(output)
    assert main(["predict", str(two), *arguments, "--overwrite"]) == 0
    expected = [
        "masks/expert.png",
        "masks/two.png",
        "notes.txt",
        "overlays/two.png",
        "predictions.csv",
        "predictions.json",
        "settings.yaml",
    ]
    assert written(output) == expected


def test_names_of_results(tmp_path: Path) -> None:
    def names(*paths: str, output: str = "out") -> list[str]:
        return list(find_files([tmp_path / path for path in paths], tmp_path / output))

    for name in ("a/1.png", "a/2.png", "a/10.png", "b/1.png", "b/3.jpg", "b/3.png", ".hidden/1.png", "out/masks/1.png"):
        save(tmp_path / name)
    for name in ("a/.DS_Store", "a/notes.txt", "b/labels.csv"):
        (tmp_path / name).write_text("no image")
    (tmp_path / "c").mkdir()
    write_dicom(tmp_path / "c/1.2.840", KNOWN[None])
    write_dicom(tmp_path / "c/1.2.841", KNOWN[None])
    assert names("a/1.png") == ["1"] and names("a") == ["1", "2", "10"]
    assert names("a/2.png", "b/1.png") == ["2", "1"]
    assert names("a/1.png", "b/1.png") == ["a/1", "b/1"]
    assert names("a", "b/3.png", "b/1.png") == ["a/1", "a/2", "a/10", "b/3", "b/1"]
    assert names("b") == ["1.png", "3.jpg", "3.png"]
    assert names("c") == ["1.2.840", "1.2.841"]
    assert names("a", "a/1.png", "a/../a/2.png") == ["1", "2", "10"]
    assert names(".") == ["a/1.png", "a/2.png", "a/10.png", "b/1.png", "b/3.jpg", "b/3.png", "c/1.2.840", "c/1.2.841"]
    save(tmp_path / "d/clip/00001.png")
    write_video(tmp_path / "d/clip.mp4", 1)
    assert names("d") == ["clip/00001.png", "clip.mp4"]
    (tmp_path / "e").mkdir()
    (tmp_path / "e/nosuffix").write_bytes((tmp_path / "a/1.png").read_bytes())
    (tmp_path / "e/linked.png").symlink_to(tmp_path / "a/1.png")
    (tmp_path / "e/gone.png").symlink_to(tmp_path / "nowhere.png")
    assert names("e") == ["gone", "linked", "nosuffix"]
    save(tmp_path / "e/linked.jpg")
    assert names("e") == ["gone.png", "linked.jpg", "linked.png", "nosuffix"], "a link has its own name"


def test_shipped_weights_and_an_exported_file(tmp_path: Path) -> None:
    """As a user calls it, with nothing replaced: the same mask from the name and from the file exported of it."""
    pytest.importorskip("onnxruntime")
    image, exported = save(tmp_path / "one.png", frames(1, 90, 120)[0]), tmp_path / "model.onnx"
    ht.deploy.export_onnx(ht.fold(ht.HTCLIP.from_checkpoint("phantom").eval()), exported)
    masks = []
    for weights, options in (("phantom", ["--runtime", "cpu"]), (str(exported), ["--runtime", "onnxruntime"])):
        output = tmp_path / f"{len(masks)}"
        assert main(["predict", str(image), "--weights", weights, "--output", str(output), *options]) == 0
        report = json.loads((output / "predictions.json").read_text())
        assert report["weights"] == weights and report["model"]["runtime"] == options[1]
        with Image.open(output / "masks/one.png") as mask:
            masks.append(np.asarray(mask))
    assert masks[0].shape == (90, 120) and np.mean(masks[0] == masks[1]) > 0.999


def test_dicom_segmentations(calls: list[Any], models: dict[str, Any], tmp_path: Path) -> None:
    """Of the DICOM files among the inputs, with an empty frame where there is no mask; a second run replaces them."""
    pytest.importorskip("highdicom")
    clip = write_dicom(tmp_path / "clip.dcm", np.stack([KNOWN, OTHER]), FrameTime="40", **patient())
    words = ["predict", str(clip), str(save(tmp_path / "one.png")), "--weights", "breast", "--dicom-seg"]
    output = tmp_path / "out"
    assert main([*words, "--output", str(output)]) == 0
    segmentation = dcmread(output / "segmentations/clip.dcm")
    with Image.open(output / "masks/clip/00001.png") as mask:
        known = np.asarray(mask)
    assert np.array_equal(segmentation.pixel_array[::2], [known == 1, known == 2])
    assert not segmentation.pixel_array[1::2].any() and known.any()
    assert [path for path in written(output) if path.endswith(".dcm")] == ["segmentations/clip.dcm"]
    assert main([*words, "--output", str(output), "--overwrite", "--ohif"]) == 0
    again = dcmread(output / "segmentations/clip.dcm")
    assert again.pixel_array.any() and "PlaneOrientationSequence" in again.SharedFunctionalGroupsSequence[0]
    (output / "predictions.json").unlink()
    (output / "predictions.csv").unlink()
    assert main([*words, "--output", str(output), "--overwrite"]) == 2  # it is of no prediction that is known


def test_a_dicom_file_that_can_have_no_segmentation(
    calls: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("highdicom")
    nobody = write_dicom(tmp_path / "nobody.dcm", KNOWN[None], FrameTime="40")
    words = ["predict", str(nobody), str(save(tmp_path / "one.png")), "--dicom-seg"]
    assert main([*words, "--weights", "breast", "--output", str(tmp_path / "out")]) == 2
    assert "nobody.dcm cannot have a DICOM Segmentation" in capsys.readouterr().err
    assert "masks/one.png" in written(tmp_path / "out")
    assert main([*words, "--weights", "phantom", "--output", str(tmp_path / "other")]) == 2
    assert "this model classifies whole images" in capsys.readouterr().err
