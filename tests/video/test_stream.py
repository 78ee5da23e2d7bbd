"""The command stream, as a user calls it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from pydicom.data import get_testdata_file

import ht_kernels as ht
from helpers.clips import TINY, frames, write_dicom, write_video
from ht_kernels.cli import main
from ht_kernels.ops import dispatch

SMALL = {"image_size": 64, "bottleneck": 8, "reduce_dim": 16, "feature_layers": (0, 1)}
"""Options of the same model that make it fast."""


def test_stream(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stream", str(clip), "--output", str(tmp_path / "out"), *TINY]) == 0
    said = capsys.readouterr()
    assert "The weights are untrained" in said.err and "segmented 5 of 5 frames" in said.err
    assert "5 frames" in said.out and "end to end" in said.out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "latency.png",
        "masks",
        "overlay.mp4",
        "report.json",
        "settings.yaml",
    ]
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["frames"] == 5 and report["weights"] == "untrained"
    assert (report["model"]["runtime"], report["model"]["backbone"]) == ("openvino", "timm/vit_tiny_patch16_224")
    about = {"path": str(clip), "kind": "dicom", "fps": 25.0, "height": 48, "width": 64, "warnings": []}
    assert report["input"] == about
    assert report["versions"]["ht_kernels"] == ht.__version__ and "torch" in report["versions"]
    with av.open(tmp_path / "out/overlay.mp4") as container:
        assert container.streams.video[0].frames == 5 and container.streams.video[0].average_rate == 25
    with Image.open(tmp_path / "out/masks/00005.png") as mask:
        assert mask.size == (64, 48)


def test_other_inputs_and_the_default_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(Path("a video.mp4"), 3)
    Path("folder").mkdir()
    for i, frame in enumerate(frames(2)):
        Image.fromarray(frame).save(f"folder/{i}.png")
    Image.fromarray(np.zeros((20, 30), np.uint8)).save("folder/2.png")  # of another size
    for name, count in (("a video.mp4", 3), ("folder", 3), ("folder/0.png", 1)):
        assert main(["stream", name, *TINY]) == 0
        output = Path(f"{Path(name).stem}-segmented")
        assert len(list((output / "masks").iterdir())) == count
        assert (output / "overlay.mp4").exists() == (name == "a video.mp4")
        what = "overlay.mp4" if name == "a video.mp4" else "overlays/"
        assert f"wrote {what}, masks/, latency.png and report.json to {output}" in capsys.readouterr().out
    for kind in ("masks", "overlays"):
        with Image.open(f"folder-segmented/{kind}/2.png") as mask:
            assert mask.size == (30, 20)


def test_a_checkpoint(checkpoint: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "out")]
    assert main(["stream", str(clip), *arguments]) == 0
    assert "untrained" not in capsys.readouterr().err
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["weights"].endswith("model.safetensors") and report["model"]["class_names"] == [
        "background",
        "lesion",
    ]


@pytest.mark.parametrize("smooth", [[], ["--smooth", "0.4"]])
def test_an_exported_file_and_runtimes(
    smooth: list[str], whole_checkpoint: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same masks from a checkpoint, from the file exported of it, and from a session of the checkpoint."""
    exported = tmp_path / "model.onnx"
    ht.deploy.export_onnx(ht.fold(ht.HTCLIP.from_checkpoint(whole_checkpoint).eval()), exported)
    masks = []
    for file, options, runtime in [
        (whole_checkpoint, ["--runtime", "cpu"], "cpu"),
        (whole_checkpoint, ["--runtime", "onnxruntime"], "onnxruntime"),
        (exported, ["--runtime", "onnxruntime"], "onnxruntime"),
    ]:
        output = tmp_path / f"{len(masks)}"
        options += [*smooth, "--checkpoint", str(file)]
        assert main(["stream", str(clip), "--output", str(output), *options]) == 0
        said = capsys.readouterr()
        assert ("by onnxruntime" in said.out) == (runtime != "cpu") and "untrained" not in said.err
        report = json.loads((output / "report.json").read_text())
        assert report["model"]["runtime"] == runtime and report["weights"] == str(file)
        masks.append(np.stack([np.asarray(Image.open(path)) for path in sorted((output / "masks").iterdir())]))
    assert masks[0].any() and all(np.mean(other == masks[0]) > 0.999 for other in masks)


def test_bad_input(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "a file").write_text("")
    no_frame = tmp_path / "no frame.dcm"
    no_frame.write_bytes(clip.read_bytes()[: clip.stat().st_size // 100])
    (tmp_path / "alone.onnx").write_bytes(b"")
    before = sorted(tmp_path.iterdir())
    output = ["--output", str(tmp_path / "out")]
    alone = [*output, "--checkpoint", str(tmp_path / "alone.onnx")]
    for arguments, message in [
        ([str(tmp_path / "missing"), *output, *TINY], "there is no file or folder"),
        ([str(tmp_path / "text.mp4"), *output, *TINY], "neither an ultrasound DICOM file, nor a video"),
        ([str(no_frame), *output, *TINY], "no frame.dcm"),
        ([str(get_testdata_file("CT_small.dcm", download=False)), *output, *TINY], "expected ultrasound"),
        ([str(clip), "--output", str(tmp_path / "a file"), *TINY], "is a file, expected a folder"),
        ([str(clip), *output, "--backbone", "ViT-B-61"], "did you mean ViT-B-16"),
        ([str(clip), *output, "--backbone", "RN50"], "vision transformer"),
        ([str(clip), *output, "--checkpoint", str(tmp_path / "text.mp4")], "cannot be read as a checkpoint"),
        ([str(clip), *alone], "alone.json cannot be read"),
        ([str(clip), *alone, *TINY], "has its tower in it"),
        ([str(clip), *alone, "--precision", "fp16"], "an exported file has its own precision"),
        ([str(clip), *output, *TINY, "--precision", "fp16", "--runtime", "cpu"], "the other runtimes compute fp32"),
    ]:
        assert main(["stream", *arguments]) == 2, message
        error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ht-kernels stream: ")]
        assert len(error) == 1 and message in error[0], error
        assert sorted(tmp_path.iterdir()) == before, message


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
@pytest.mark.parametrize("runtime", ["cuda_graph", "tensorrt"])
def test_a_runtime_that_cannot_run(
    runtime: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stream", str(clip), "--output", str(tmp_path / "out"), *TINY, "--runtime", runtime]) == 2
    assert "ht-kernels stream: there is no NVIDIA GPU" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.dcm"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_what_there_is(tmp_path: Path, number: int) -> None:
    clip = write_dicom(tmp_path / "clip.dcm", np.stack([frames()[0]] * 3000))
    checkpoint = tmp_path / "model.safetensors"
    ht.HTCLIP("timm/vit_tiny_patch16_224", **SMALL).save(checkpoint)
    command = [sys.executable, "-m", "ht_kernels", "stream", str(clip), "--output", str(tmp_path / "out")]
    command += ["--checkpoint", str(checkpoint)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TRITON_INTERPRET": "0"}
    environment["OMP_NUM_THREADS"] = "1"
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=tmp_path,  # the checkout's own ht_kernels would hide the installed one
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # what runs in the background ignores SIGINT
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("segmented"):
            break
    assert any(p.name.startswith(".out-") for p in tmp_path.iterdir())
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in errors and "Traceback" not in errors
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.dcm", "model.safetensors", "out"]
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["interrupted"] and report["frames"] >= 100
    with av.open(tmp_path / "out/overlay.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == report["frames"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuda", "backend 'cuda' was asked for by name but cannot run"),
        ("gpu", "unknown backend 'gpu' in HT_KERNELS_BACKEND, expected one of"),
    ],
)
def test_a_backend_that_cannot_run(
    name: str,
    message: str,
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch.choices, "asked", name)
    assert main(["stream", str(clip), "--output", str(tmp_path / "out"), *TINY]) == 2
    assert message in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.dcm"]
