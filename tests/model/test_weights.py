"""The weights that ship: they load offline and by name, are small, and segment phantoms."""

from __future__ import annotations

import argparse
import base64
import json
from pathlib import Path

import pytest
import torch

import ht_kernels as ht
from ht_kernels.cli import main, running, stream
from ht_kernels.data.phantom import draw_phantom, simulate
from ht_kernels.deploy import FoldedHTCLIP, Session
from ht_kernels.dice import dice
from ht_kernels.errors import InputError
from ht_kernels.train import simulate_examples
from ht_kernels.train.metrics import predict, score, summarize
from ht_kernels.video.example import example_clip
from ht_kernels.weights import BREAST, KEY, PHANTOM, locate, metadata_of


def test_segments_phantoms_without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was used"))
    assert PHANTOM.stat().st_size <= 16 * 2**20
    model = ht.HTCLIP.from_checkpoint(PHANTOM)
    examples = simulate_examples(20, seed=77)
    before = predict(model, examples, range(20), 10, "cpu")
    assert summarize(score(examples, range(20), before, 2, surfaces=False))["dice"] > 0.8
    model.save(tmp_path / "again.safetensors")  # the trained tower goes with it
    again = ht.HTCLIP.from_checkpoint(tmp_path / "again.safetensors")
    assert torch.equal(predict(again, examples, range(20), 10, "cpu"), before)


def test_breast_notes_the_images_that_it_was_trained_on() -> None:
    note = json.loads((metadata_of(BREAST) or {})[KEY])["trained_on"]
    assert {split: len(base64.b64decode(hashes)) // 6 for split, hashes in note.items()} == {"train": 312, "val": 45}
    assert ht.HTCLIP.from_checkpoint(BREAST).trained_on == note, "what goes on from it was trained on them too"


def test_breast_segments_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was not trained on phantoms, but finds a dark lesion in one."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was used"))
    assert BREAST.stat().st_size <= 36 * 10**6
    model = ht.HTCLIP.from_checkpoint("breast").eval()
    assert {p.dtype for p in model.parameters()} == {torch.float32} and model.config.class_names[1] == "lesion"
    size = model.config.image_size
    samples = [simulate(draw_phantom(seed, size=(size, size), kind="hypoechoic"), seed) for seed in (0, 1)]
    images = torch.stack([torch.from_numpy(sample.image) for sample in samples])[:, None]
    with torch.no_grad():
        logits, distances = model.with_distance(images.float() / 255)
    overlaps = [dice(mask.numpy() > 0, s.mask > 0) for mask, s in zip(logits.argmax(1), samples, strict=True)]
    assert sum(overlaps) / 2 > 0.7 and distances.isfinite().all()


def test_names_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("breast") == BREAST and locate(Path("phantom")) == PHANTOM
    for path in ("breast.safetensors", "./breast", "runs/breast", str(tmp_path / "phantom")):
        assert locate(path) == Path(path)
    Path("breast").mkdir()
    assert locate("breast") == BREAST  # as a folder that an export was asked to write
    Path("breast").rmdir()
    Path("breast").write_bytes(b"mine")
    assert locate("breast") == Path("breast")
    with pytest.raises(InputError, match=r"there is no file brest, .* one of breast, phantom"):
        locate("brest")


def test_names_in_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside what ``export phantom --output phantom.onnx`` wrote, the name still is that of the weights."""
    monkeypatch.chdir(tmp_path)
    assert main(["export", "phantom", "--output", "phantom.onnx"]) == 0
    assert Path("phantom.json").is_file() and "random weights" not in capsys.readouterr().err
    parser = argparse.ArgumentParser()
    stream.add_arguments(parser)
    model, trained = running.open_model(parser.parse_args(["clip.dcm", "--checkpoint", "phantom"]))
    assert trained and isinstance(model, FoldedHTCLIP | Session)
    assert main(["evaluate", "phantom", "--phantoms", "2", "--output", "report"]) == 0
    assert "warning" not in capsys.readouterr().err
    running.open_model(parser.parse_args(["clip.dcm", "--checkpoint", "phantom", "--unfamiliar", "outline"]))
    assert "--unfamiliar outline changes nothing: the model cannot say" in capsys.readouterr().err
    assert model.config is not None  # a session of the exported file would have none


@pytest.mark.parametrize(
    "command",
    [
        ["export"],
        ["convert"],
        ["inspect"],
        ["evaluate", "--phantoms", "1"],
        ["train", "--task", "segmentation", "--phantoms", "1", "--from"],
        ["stream", str(example_clip()), "--checkpoint"],
    ],
    ids=lambda words: words[0],
)
def test_unknown_names(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "brest", "--output", str(tmp_path / "out.onnx")]) == 2
    assert "there is no file brest" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_another_image_size_is_a_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The words of a warning, without the place in the code that gave it."""
    parser = argparse.ArgumentParser()
    stream.add_arguments(parser)
    running.open_model(parser.parse_args(["clip.dcm", "--checkpoint", "breast", "--image-size", "224"]))
    said = capsys.readouterr().err
    assert said.startswith("warning: breast.safetensors is calibrated for another image size") and said.count("\n") == 1
