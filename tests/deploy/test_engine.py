"""Engines of TensorRT for RTX: what is refused, and real builds where the package is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import ht_kernels as ht
from helpers.exports import corrupt, folded_model
from helpers.small_models import calibrated, small_model
from helpers.small_towers import IMAGE
from ht_kernels.cli import main
from ht_kernels.deploy import build_engine, engine, export_onnx, read_manifest
from ht_kernels.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(InputError, match="pip install tensorrt-rtx"):
        build_engine(tmp_path / "model.onnx", tmp_path / "model.engine", targets=["sm_86"])


@pytest.mark.parametrize(("precision", "classes"), [("fp32", 1), ("fp16", 3), ("bf16", 3)])
def test_builds(precision: str, classes: int, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    folded = ht.fold(calibrated(small_model(num_classes=classes)).float())
    written = export_onnx(folded, tmp_path / "model.onnx", precision=precision, batch=(1, 2, 4), output="mask")
    phases: list[str] = []
    targets = ["sm_86", "sm_120"]
    build_engine(tmp_path / "model.onnx", tmp_path / "model.engine", targets=targets, progress=phases.append)
    manifest = read_manifest(tmp_path / "model.engine.json")
    assert manifest.kind == "tensorrt_rtx" and manifest.targets == ("sm_86", "sm_120")
    assert manifest.onnx_sha256 == written.sha256 != manifest.sha256
    assert manifest.batch == (1, 2, 4) and manifest.output_shape == ("batch", IMAGE, IMAGE)
    assert manifest.familiarity == folded.familiarity.scale and len(manifest.outputs) == 2
    assert "tensorrt_rtx" in manifest.versions and "Building engine" in phases
    assert read_manifest(tmp_path / "model.json") == written


def test_wrong_arguments(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    export_onnx(folded_model(), tmp_path / "model.onnx")
    for targets, name, message in [
        ([], "model.engine", "at least one target"),
        (["sm_87"], "model.engine", "no target 'sm_87', only sm_75, sm_80"),
        (["CURRENT"], "model.engine", "no target 'CURRENT'"),
        (["sm_86"], "other.onnx", r"must not end in \.onnx"),
        (["sm_86"], "missing/model.engine", "No such file"),
    ]:
        with pytest.raises(InputError, match=message):
            build_engine(tmp_path / "model.onnx", tmp_path / name, targets=targets)
    corrupt(tmp_path / "model.onnx", "pyramid.bias", 2.0)
    with pytest.raises(InputError, match="sha256"):
        build_engine(tmp_path / "model.onnx", tmp_path / "model.engine", targets=["sm_86"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.onnx"]


def test_the_plugin_needs_tensorrt_and_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rtx = pytest.importorskip("tensorrt_rtx")
    export_onnx(folded_model(), tmp_path / "model.onnx", plugin=True)
    with pytest.raises(InputError, match="TensorRT for RTX has no plugins"):
        build_engine(tmp_path / "model.onnx", tmp_path / "model.engine", targets=["sm_86"])
    monkeypatch.setitem(sys.modules, "tensorrt", rtx)  # the API is the same as far as this goes
    monkeypatch.setattr(engine, "plugin_library", lambda: tmp_path / "none.so")
    with pytest.raises(InputError, match="this build has no TensorRT plugin: build ht_kernels with CUDA and TENSORRT"):
        build_engine(tmp_path / "model.onnx", tmp_path / "model.engine", runtime="tensorrt")


def test_tensorrt_builds_for_the_gpu_that_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(InputError, match=r"engines need TensorRT, which is not installed: pip install tensorrt$"):
        build_engine(tmp_path / "model.onnx", tmp_path / "model.engine", runtime="tensorrt")
    with pytest.raises(InputError, match="runtime must be one of tensorrt, tensorrt_rtx, got 'trt'"):
        build_engine(tmp_path / "model.onnx", tmp_path / "model.engine", runtime="trt")
    monkeypatch.setitem(sys.modules, "tensorrt", pytest.importorskip("tensorrt_rtx"))
    with pytest.raises(InputError, match="got targets sm_86: leave them out"):
        build_engine(tmp_path / "model.onnx", tmp_path / "model.engine", runtime="tensorrt", targets=["sm_86"])


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx")
    checkpoint, output = tmp_path / "model.safetensors", tmp_path / "model.engine"
    ht.HTCLIP("timm/vit_tiny_patch16_224", image_size=64, reduce_dim=16, feature_layers=(0, 1)).save(checkpoint)
    arguments = ["export", str(checkpoint), "--output", str(output), "--format", "tensorrt-rtx"]
    assert main(arguments) == 2 and "needs at least one" in capsys.readouterr().err
    assert main([*arguments, "--target", "sm_87"]) == 2 and "no target 'sm_87'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert main([*arguments, "--target", "sm_89"]) == 0
    said = capsys.readouterr()
    assert "Optimizing graph" in said.err and "model.engine.json" in said.out
    assert read_manifest(tmp_path / "model.engine.json").targets == ("sm_89",)
    assert (tmp_path / "model.engine.report.json").exists() and not (tmp_path / "model.onnx").exists()
