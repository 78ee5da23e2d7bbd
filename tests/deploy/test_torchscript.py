"""TorchScript files: equal to torch on any number of frames, without this package, and refused where they are wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import ht_kernels as ht
from helpers.exports import calibrated_model, folded_model, names, some_frames
from helpers.small_models import small_model
from helpers.small_towers import small_clip
from ht_kernels.cli import main
from ht_kernels.deploy import Session, check_torchscript, export_torchscript, read_manifest, torchscript
from ht_kernels.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")

HOST = """
import json, sys
sys.path.append({packages!r})
import torch

config = {{"config.json": ""}}
model = torch.jit.load({file!r}, _extra_files=config).to("cpu")
frames = torch.load({frames!r})
with torch.inference_mode():
    logits = model(frames[:1].float())
    several = model(frames)
    distance = model.with_distance(frames)[1]
assert isinstance(logits, torch.Tensor) and logits.shape[2] == json.loads(config["config.json"])["shape"][-1]
assert not any(name.partition(".")[0] == "ht_kernels" for name in sys.modules)
torch.save([torch.softmax(logits, dim=1)[0, 1], several, distance], {results!r})
"""
"""What 3D Slicer's TorchLiveUs and TorchSequenceSegmentation do with a file and a frame."""


def load(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.", FutureWarning)
        return torch.jit.load(path)


def contrastive_model() -> ht.deploy.FoldedHTCLIP:
    return ht.fold(ht.HTCLIP(small_clip(), task="contrastive", bottleneck=8).eval().float())


MODELS = {
    "segmentation": lambda: calibrated_model(),
    "classification": lambda: calibrated_model(task="classification"),
    "contrastive": contrastive_model,
    "one kernel": lambda: folded_model(variant="baseline"),
    "spectral": lambda: ht.fold(small_model(spectral="full").float()),
    "radial": lambda: ht.fold(small_model(spectral="radial").float()),
    "open_clip": lambda: folded_model("open_clip"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_file_equals_torch(name: str, tmp_path: Path) -> None:
    folded = MODELS[name]()
    channels = 3 if name == "contrastive" else 1
    manifest = export_torchscript(folded, tmp_path / "model.pt", channels=channels)
    assert manifest == read_manifest(tmp_path / "model.pt.json") and manifest.kind == "torchscript"
    script = load(tmp_path / "model.pt")
    for count in (3, 1, 2):
        frames = some_frames(folded, count, channels)
        for given in (frames, frames.float()):
            torch.testing.assert_close(script(given), folded(frames), rtol=1e-4, atol=1e-4)
        if folded.familiarity is not None:
            for got, expected in zip(script.with_distance(frames), folded.with_distance(frames), strict=True):
                torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    report = check_torchscript(folded, tmp_path / "model.pt", some_frames(folded, 3, channels))
    assert report.passed and report.runtime == "torchscript" and report.sha256 == manifest.sha256


def test_a_host_is_told_of_a_wrong_size(tmp_path: Path) -> None:
    folded = calibrated_model()
    export_torchscript(folded, tmp_path / "model.pt")
    script, frames = load(tmp_path / "model.pt"), some_frames(folded, 1)
    _, _, height, width = frames.shape
    for wrong in (frames[..., :-1], frames.expand(-1, 3, -1, -1), frames[0]):
        for method in (script, script.with_distance):
            with pytest.raises(Exception, match=rf"frames must have shape \(B, 1, {height}, {width}\), got \["):
                method(wrong)


def test_a_file_moves_to_another_device(tmp_path: Path) -> None:
    """No tensor and no operator of a file names the CPU. The device meta stands for a GPU, and has shapes only."""
    folded = calibrated_model(spectral="full")
    export_torchscript(folded, tmp_path / "model.pt")
    script = load(tmp_path / "model.pt")
    for method in (script, script.with_distance):
        assert "Device" not in str(method.inlined_graph if method is script else method.graph)
    frames = some_frames(folded).to("meta")
    result, distances = script.to("meta").with_distance(frames)
    assert result.device.type == distances.device.type == "meta" and result.shape == (3, 3, *folded.image_size)


@pytest.mark.parametrize("result", ["mask", "grid"])
def test_results(result: str, tmp_path: Path) -> None:
    folded = calibrated_model()
    manifest = export_torchscript(folded, tmp_path / "model.pt", output=result)
    frames = some_frames(folded)
    got = load(tmp_path / "model.pt")(frames)
    expected = folded(frames, folded.grid)
    if result == "mask":
        expected = folded.classes(folded(frames))
        assert (got == expected).float().mean() > 0.999 and got.dtype == torch.uint8
    else:
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert manifest.outputs[0] == (result, ("batch", *expected.shape[1:]), str(expected.dtype).removeprefix("torch."))
    assert check_torchscript(folded, tmp_path / "model.pt", frames).passed


@pytest.mark.parametrize(("precision", "error"), [("fp32", 1e-5), ("fp16", 1e-2), ("bf16", 1e-1)])
def test_precisions(precision: str, error: float, tmp_path: Path) -> None:
    folded, path = calibrated_model(), tmp_path / "model.pt"
    export_torchscript(folded, path, precision=precision)
    frames = some_frames(folded)
    report = check_torchscript(folded, path, frames)
    assert report.passed and report.precision == precision and 0 < report.relative_error < error
    assert load(path)(frames).dtype == torch.float32
    held = {buffer.dtype for buffer in load(path).buffers()}
    assert (torchscript.PRECISIONS[precision] in held) and torch.float64 not in held
    other = check_torchscript(calibrated_model(variant="baseline"), path, frames)
    assert not other.passed and other.diverged == "script" and other.failures


def test_torch_alone_runs_a_file(tmp_path: Path) -> None:
    """In a process that reads no .pth file, so that it does not find this package where it is installed editable."""
    folded = calibrated_model()
    export_torchscript(folded, tmp_path / "model.pt")
    frames = some_frames(folded)
    torch.save(frames, tmp_path / "frames.pt")
    places = {name: str(tmp_path / name) + ".pt" for name in ("frames", "results")}
    packages = str(Path(torch.__file__).parents[1])
    program = HOST.format(packages=packages, file=str(tmp_path / "model.pt"), **places)
    subprocess.run([sys.executable, "-I", "-S", "-W", "ignore", "-c", program], check=True, cwd=tmp_path)
    foreground, several, distance = torch.load(tmp_path / "results.pt")
    logits, distances = folded.with_distance(frames)
    torch.testing.assert_close(foreground, logits.softmax(1)[0, 1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(several, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(distance, distances, rtol=1e-4, atol=1e-4)


def test_operators_that_torch_does_not_have_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if ht.available_backends()[0] == "reference":
        pytest.skip("without kernels every adapter is torch's own operators")
    monkeypatch.setattr(torchscript, "_PlainAdapter", lambda adapter: adapter)
    with pytest.raises(InputError, match=r"computes ht_kernels::adapter, which torch alone does not"):
        export_torchscript(folded_model(), tmp_path / "model.pt")
    assert names(tmp_path) == []


def test_what_cannot_be_exported_or_checked(tmp_path: Path) -> None:
    folded, path = folded_model(), tmp_path / "model.pt"
    for options, sentence in (
        ({"precision": "int8"}, "precision must be one of fp32, fp16, bf16"),
        ({"output": "embeddings"}, "gives logits"),
        ({"channels": 2}, "channels must be 1"),
    ):
        with pytest.raises(InputError, match=sentence):
            export_torchscript(folded, path, **options)
    with pytest.raises(InputError, match=r"must be named NAME\.pt"):
        export_torchscript(folded, tmp_path / "model.onnx")
    with pytest.raises(TypeError, match="fold without dtype"):
        export_torchscript(ht.fold(small_model(), torch.bfloat16), path)
    path.write_bytes(b"weights of a user")
    with pytest.raises(InputError, match=r"model\.pt is there already without a manifest"):
        export_torchscript(folded, path)
    path.unlink()
    export_torchscript(folded, path)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="is not the file that the manifest"):
        check_torchscript(folded, path, some_frames(folded))
    with pytest.raises(InputError, match="torch cannot load the TorchScript file"):
        torchscript.load_script(b"PK")


def test_command(checkpoint: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "model.pt"
    arguments = ["export", str(checkpoint), "--output", str(output), "--format", "torchscript", "--frames", str(clip)]
    assert main([*arguments, "--precision", "fp16"]) == 0
    said = capsys.readouterr()
    assert "writing TorchScript in fp16" in said.err and "fp16 in torchscript, 5 frames" in said.out
    beside = ["model.pt", "model.pt.json", "model.pt.report.json", "model.pt.settings.yaml"]
    assert names(tmp_path) == ["clip.dcm", *beside]
    assert json.loads((tmp_path / "model.pt.report.json").read_text())["passed"]
    with pytest.raises(InputError, match="no session runs it"):
        Session.open(output)
    predict = ["predict", str(clip), "--weights", str(output), "--output", str(tmp_path / "new")]
    assert main(predict) == 2
    assert "model.pt is TorchScript, which is for programs without this package" in capsys.readouterr().err
    (tmp_path / "model.pt.json").unlink()
    assert main(predict) == 2
    assert "cannot be turned back into a checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_failed_gate(
    checkpoint: Path,
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wrong(adapter: Any) -> Any:
        plain = plain_adapter(adapter)
        adapter.up_bias += 1
        return plain

    plain_adapter = torchscript._PlainAdapter
    monkeypatch.setattr(torchscript, "_PlainAdapter", wrong)
    arguments = ["--output", str(tmp_path / "model.pt"), "--format", "torchscript", "--frames", str(clip)]
    assert main(["export", str(checkpoint), *arguments]) == 3
    assert "arises in the TorchScript file, whose inner tensors are not read" in capsys.readouterr().err
    assert names(tmp_path) == ["clip.dcm", "model.pt.report.failed.json"]


def test_a_probability_above_a_half_is_the_second_class(tmp_path: Path) -> None:
    folded = ht.fold(small_model(num_classes=2).float())
    export_torchscript(folded, tmp_path / "model.pt")
    frames = some_frames(folded)
    with torch.inference_mode():
        foreground = load(tmp_path / "model.pt")(frames).softmax(1)[:, 1]
    torch.testing.assert_close((foreground > 0.5).to(torch.uint8), folded.classes(folded(frames)))
