"""The command export, as a user calls it."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path

import onnx
import pytest

import ht_kernels as ht
from helpers.exports import corrupt, names
from ht_kernels.cli import main
from ht_kernels.deploy import gate, read_manifest
from ht_kernels.deploy import onnx as onnx_export
from ht_kernels.deploy.manifest import Manifest, sha256, write_manifest
from ht_kernels.deploy.places import manifest_path
from ht_kernels.deploy.runtimes import OnnxRuntime

pytestmark = pytest.mark.usefixtures("one_thread")


def test_export(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", str(checkpoint), "--output", str(tmp_path / "model.onnx"), "--precision", "fp16"]
    assert main([*arguments, "--format", "onnx", "--batch", "1:2:4"]) == 0
    said = capsys.readouterr()
    assert "checking against torch on 16 frames" in said.err and "random weights" not in said.err
    assert "fp16 in onnxruntime, 16 frames" in said.out and "Dice, mean" in said.out and "wrote" in said.out
    assert names(tmp_path) == ["model.json", "model.onnx", "model.report.json", "model.settings.yaml"]
    manifest = read_manifest(tmp_path / "model.json")
    assert manifest.batch == (1, 2, 4) and manifest.class_names == ("background", "lesion")
    report = json.loads((tmp_path / "model.report.json").read_text())
    assert report["passed"] and report["sha256"] == manifest.sha256 and report["frames"] == 16


@pytest.mark.parametrize("result", ["mask", "grid"])
def test_results_of_a_clip(
    result: str, checkpoint: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "model.onnx"
    arguments = ["--output", str(output), "--result", result, "--frames", str(clip), "--batch", "2"]
    assert main(["export", str(checkpoint), *arguments]) == 0
    assert "5 frames" in capsys.readouterr().out
    assert onnx.load(output).graph.output[0].name == result


def test_a_failed_gate(
    checkpoint: Path,
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    export = onnx_export.export_onnx

    def wrong(folded: object, path: Path, **options: object) -> None:
        export(folded, path, **options)
        corrupt(path, "blocks.5/mlp/last.weight", 1.5)

    monkeypatch.setattr(onnx_export, "export_onnx", wrong)
    arguments = ["export", str(checkpoint), "--output", str(tmp_path / "model.onnx"), "--frames", str(clip)]
    assert main(arguments) == 3
    error = capsys.readouterr().err
    assert "relative error is" in error and "error arises in blocks.5" in error and "was not written" in error
    assert names(tmp_path) == ["clip.dcm", "model.report.failed.json"]
    report = json.loads((tmp_path / "model.report.failed.json").read_text())
    assert not report["passed"] and report["diverged"] == "blocks.5" and report["failures"]


@pytest.mark.parametrize("broken", [False, True])
def test_an_engine_for_this_gpu_is_run(
    broken: bool,
    checkpoint: Path,
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stand-in for an engine and its GPU: the graph it was built from, in ONNX Runtime, whole or damaged."""

    def build(graph: Path, path: Path, **_: object) -> Manifest:
        manifest = read_manifest(manifest_path(graph))
        if broken:
            corrupt(graph, "blocks.5/mlp/last.weight", 1.5)
        content = graph.read_bytes()
        path.write_bytes(content)
        built = dataclasses.replace(manifest, kind="tensorrt", file=path.name, sha256=sha256(content))
        write_manifest(built, path)
        return built

    monkeypatch.setattr("ht_kernels.deploy.engine.build_engine", build)
    monkeypatch.setattr("ht_kernels.deploy.engine.import_runtime", lambda runtime: None)
    monkeypatch.setattr("ht_kernels.deploy.engine_runtime.runs_here", lambda manifest: True)
    monkeypatch.setattr("ht_kernels.deploy.session.EngineRuntime", OnnxRuntime)
    output = tmp_path / "model.engine"
    status = main(["export", str(checkpoint), "--output", str(output), "--format", "tensorrt", "--frames", str(clip)])
    said = capsys.readouterr()
    written = "model.engine.report.failed.json" if broken else "model.engine.report.json"
    report = json.loads((tmp_path / written).read_text())
    assert report["passed"] and report["engine"]["runtime"] == "tensorrt"
    if broken:
        assert status == 3 and "error arises in the engine, whose ONNX graph passed" in said.err
        assert names(tmp_path) == ["clip.dcm", written] and not report["engine"]["passed"]
    else:
        assert status == 0 and "fp32 in tensorrt, 5 frames" in said.out and report["engine"]["passed"]
        assert names(tmp_path) == [
            "clip.dcm",
            "model.engine",
            "model.engine.json",
            written,
            "model.engine.settings.yaml",
        ]


def test_an_interrupt_leaves_nothing(
    checkpoint: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        assert any(name.startswith(".model.onnx-") for name in names(tmp_path))
        raise KeyboardInterrupt

    monkeypatch.setattr("ht_kernels.deploy.gate.check_onnx", interrupted)
    arguments = ["export", str(checkpoint), "--output", str(tmp_path / "model.onnx"), "--frames", str(clip)]
    assert main(arguments) == 130
    assert names(tmp_path) == ["clip.dcm"]


def test_bad_input(checkpoint: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.pt").write_text("no checkpoint")
    classifier = tmp_path / "classifier.safetensors"
    ht.HTCLIP("timm/vit_tiny_patch16_224", task="classification").save(classifier)
    before = names(tmp_path)
    good = ["--output", str(tmp_path / "model.onnx"), "--frames", str(clip)]
    for arguments, message in [
        ([str(tmp_path / "missing.pt"), *good], "there is no checkpoint file"),
        ([str(tmp_path / "text.pt"), *good], "cannot be read as a checkpoint"),
        ([str(checkpoint), *good, "--batch", "two"], "--batch must be a number or MIN:OPT:MAX"),
        ([str(checkpoint), *good, "--batch", "4:2:1"], "batch must be a number from 1 on"),
        ([str(checkpoint), *good, "--batch", "0"], "batch must be a number from 1 on"),
        ([str(checkpoint), *good, "--backbone", "ViT-B-61"], "did you mean ViT-B-16"),
        ([str(checkpoint), *good, "--frames", str(tmp_path / "missing")], "there is no file or folder"),
        ([str(checkpoint), "--output", str(tmp_path / "model.pt"), "--frames", str(clip)], "must be named NAME.onnx"),
        ([str(checkpoint), "--output", str(tmp_path / "no/model.onnx")], "cannot be written: No such file"),
        ([str(classifier), *good, "--result", "mask"], "a mask goes with segmentation"),
    ]:
        assert main(["export", *arguments]) == 2, message
        error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ht-kernels export: ")]
        assert len(error) == 1 and message in error[0], error
        assert names(tmp_path) == before, message


def test_images_whose_attention_is_too_large_are_refused_before_the_export(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: 1000)
    arguments = ["export", "phantom", "--output", str(tmp_path / "m.onnx"), "--image-size", "448"]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert (
        "images of 448x448 pixels are 785 tokens, whose attention takes 0 GiB in the exported file for 1 frame" in said
    )
    assert "give a smaller --image-size" in said and "writing ONNX" not in said and not names(tmp_path)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--output", "m.xml"], r"m\.xml must be named NAME\.onnx, or name"),
        (["--output", ".", "--format", "triton-server"], "exists: name a new folder"),
        (["--output", "m.engine", "--format", "tensorrt"], "engines need TensorRT, which is not installed"),
        (["--output", "m.pt"], r"m\.pt must be named NAME\.onnx"),
        (["--output", "m.engine"], r"m\.engine must be named NAME\.onnx, or name its format with --format tensorrt"),
        (["--output", "m.onnx", "--format", "tensorrt"], r"m\.onnx must not end in \.onnx: NAME\.engine is usual"),
        (["--output", "a model", "--format", "triton-server"], "the folder's name 'a model' becomes the model's"),
        (["--output", "m", "--format", "triton-server", "--plugin"], "--plugin is for TensorRT"),
        (["--output", "m.onnx", "--batch", "4:2:1"], "batch must be a number from 1 on, or three in ascending order"),
        (["--output", "m.onnx", "--batch", "5000"], "batch must be at most 4096 frames, got 5000"),
        (["--output", "m.onnx", "--image-size", "-16"], "--image-size -16 was given, expected 1 to 8192 pixels"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_checkpoint_is_read(
    options: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert main(["export", "breast", *options]) == 2
    assert re.search(sentence, capsys.readouterr().err)
    assert not names(tmp_path)


def test_a_result_that_the_model_does_not_give_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ht.HTCLIP("timm/vit_tiny_patch16_224", task="classification").save(tmp_path / "model.safetensors")
    monkeypatch.setattr("ht_kernels.cli.model_options.load_model", lambda args: pytest.fail("it was read"))
    for result, sentence in (("grid", "a grid goes with segmentation"), ("embeddings", "gives logits, and embeddings")):
        options = ["--output", str(tmp_path / "model.onnx"), "--result", result]
        assert main(["export", str(tmp_path / "model.safetensors"), *options]) == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "foreign"),
    [
        ("b.onnx", "b.json"),
        ("b.onnx", "b.onnx"),
        ("b.onnx", "b.report.json"),
        ("b.onnx", "b.report.failed.json"),
        ("b.xml", "b.bin"),
        ("b", "b.report.json"),
    ],
)
@pytest.mark.parametrize("content", [b"mine", b'{"file": "another.onnx"}'])
def test_what_no_export_wrote_is_not_overwritten(
    content: bytes,
    output: str,
    foreign: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(foreign).write_bytes(content)
    kind = {".onnx": "onnx", ".xml": "openvino", "": "triton-server"}[Path(output).suffix]
    if kind == "openvino":
        pytest.importorskip("openvino")
    assert main(["export", "no checkpoint", "--output", output, "--format", kind]) == 2
    said = capsys.readouterr().err
    assert f"{foreign} is there already" in said and "name another output, or move that file away" in said
    assert names(tmp_path) == [foreign] and Path(foreign).read_bytes() == content


def test_a_failed_export_leaves_an_earlier_one_as_it_was(
    checkpoint: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that succeeds replaces it, with the report of the failure."""
    arguments = ["export", str(checkpoint), "--output", str(tmp_path / "model.onnx"), "--frames", str(clip)]
    assert main(arguments) == 0
    arguments.append("--overwrite")
    written = ["model.json", "model.onnx", "model.report.json", "model.settings.yaml"]
    before = {name: (tmp_path / name).read_bytes() for name in written}
    with monkeypatch.context() as patch:
        patch.setattr(gate, "THRESHOLDS", {"fp32": dataclasses.replace(gate.THRESHOLDS["fp32"], relative=0.0)})
        assert main(arguments) == 3
    assert names(tmp_path) == sorted(["clip.dcm", *written, "model.report.failed.json"])
    assert {name: (tmp_path / name).read_bytes() for name in written} == before
    assert main([*arguments, "--precision", "fp16"]) == 0
    assert names(tmp_path) == ["clip.dcm", *written] and read_manifest(tmp_path / "model.json").precision == "fp16"
