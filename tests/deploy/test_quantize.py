"""Export in int8: the quantised graph, what stays in float32, the gate, and the frames to calibrate on."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import ht_kernels as ht
from helpers.clips import frames as clip_frames
from helpers.clips import write_dicom
from helpers.exports import calibrated_model, error, folded_model, some_frames
from helpers.small_models import calibrated, gray_frames, small_model
from ht_kernels.cli import main
from ht_kernels.data.phantom import draw_phantom, simulate
from ht_kernels.deploy import FoldedHTCLIP, Session, build_engine, build_ir, check_onnx, export_onnx, read_manifest
from ht_kernels.deploy.calibration import LEAST, without
from ht_kernels.deploy.gate import THRESHOLDS, _chosen
from ht_kernels.deploy.onnx_run import run
from ht_kernels.errors import InputError

pytest.importorskip("nncf")
pytestmark = pytest.mark.usefixtures("one_thread")

LOOSE = dataclasses.replace(THRESHOLDS["int8"], relative=0.5, agreement=0.9, dice=0.9)
"""For a model with random weights, whose classes are closer to each other than those of a trained one."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[FoldedHTCLIP, Path, torch.Tensor]:
    """A model, its file in int8, and frames that the file was not calibrated on."""
    folded = folded_model("timm")
    path, frames = tmp_path_factory.mktemp("int8") / "model.onnx", some_frames(folded, LEAST + 3)
    export_onnx(folded, path, precision="int8", batch=(1, 2, 4), calibration=frames[:LEAST])
    return folded, path, frames[LEAST:]


def test_the_graph(exported: tuple[FoldedHTCLIP, Path, torch.Tensor]) -> None:
    """Products of blocks, adapters and pyramid are between int8 tensors; weights have a scale for each channel."""
    _, path, _ = exported
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made = {name: node for node in model.graph.node for name in node.output}
    quantised, queries_and_keys = {}, []
    for node in model.graph.node:
        inputs = [made[name] for name in node.input if name in made]
        pairs = [one for one in inputs if one.op_type == "DequantizeLinear"]
        if node.op_type == "MatMul" and pairs:
            assert len(pairs) == 2, node.name
            quantised[node.name] = pairs
        elif node.op_type == "Reshape" and pairs:
            queries_and_keys.append(node.name)
        elif node.op_type in ("LayerNormalization", "Softmax", "Conv", "Add", "Gelu", "ReduceMean"):
            assert not pairs, node.name
    inside = ["attention/qkv", "attention/out", "mlp/hidden", "mlp/last"]
    expected = {f"blocks.{i}/{name}" for i in range(3) for name in inside}
    expected |= {f"adapters.{i}/{name}" for i in range(3) for name in ("down", "mix", "up")}
    expected |= {f"pyramid.{i}/{name}" for i in range(3) for name in ("reduce", "hidden")}
    assert set(quantised) == expected
    assert queries_and_keys == [f"blocks.{i}/attention/{name}/heads" for i in range(3) for name in "qk"]
    for name, (activation, weight) in quantised.items():
        assert constants[activation.input[1]].ndim == 0, name
        values, scale = constants[weight.input[0]], constants[weight.input[1]]
        assert values.dtype == np.int8 and scale.shape == (values.shape[1],), name
        assert np.abs(values.astype(int)).max(0).min() == 127, name
    zeros = [constants[node.input[2]] for node in model.graph.node if node.op_type.endswith("quantizeLinear")]
    assert zeros and all(zero.dtype == np.int8 and not zero.any() for zero in zeros)


def test_the_file_and_its_gate(exported: tuple[FoldedHTCLIP, Path, torch.Tensor]) -> None:
    folded, path, frames = exported
    manifest = read_manifest(path.with_suffix(".json"))
    assert manifest.precision == "int8" and manifest.batch == (1, 2, 4) and "nncf" in manifest.versions
    shapes = [value.type.tensor_type.shape.dim for value in onnx.load(path).graph.output]
    assert [[size.dim_param or size.dim_value for size in shape] for shape in shapes] == [list(manifest.output_shape)]
    report = check_onnx(folded, path, frames, LOOSE)
    assert report.passed, report.failures
    assert report.precision == "int8" and (report.frames, report.calibration_frames) == (3, LEAST)
    assert report.relative_error is not None and report.relative_error > 1e-3


def test_openvino_computes_in_int8(exported: tuple[FoldedHTCLIP, Path, torch.Tensor], tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    folded, path, frames = exported
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    nodes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    kinds = [(node["layerType"], node["runtimePrecision"]) for node in nodes]
    assert kinds.count(("FullyConnected", "i8")) >= 20, kinds
    build_ir(path, tmp_path / "model.xml")
    for file in (path, tmp_path / "model.xml"):
        got = Session.open(file, runtime="openvino")(frames)
        assert error(got, folded(frames)) < LOOSE.relative
    with pytest.raises(InputError, match="a folded model does not run in int8"):
        Session.open(folded, runtime="openvino", precision="int8")


def test_tensorrt_takes_it(exported: tuple[FoldedHTCLIP, Path, torch.Tensor], tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    _, path, _ = exported
    assert build_engine(path, tmp_path / "model.engine", targets=["sm_86"]).precision == "int8"


def test_distances(tmp_path: Path) -> None:
    """On average over the frames calibrated on, features are as far from those of the training images as in float32."""
    folded = calibrated_model("timm")
    frames = some_frames(folded, 14)
    centred = {}
    for precision, calibration in [("fp32", None), ("int8", frames[:LEAST])]:
        path = tmp_path / f"{precision}.onnx"
        export_onnx(folded, path, precision=precision, calibration=calibration, batch=(1, 1, 4))
        centred[precision] = run(onnx.load(path), ["distance/centred"], frames[:LEAST])["distance/centred"]
    assert np.abs(centred["int8"] - centred["fp32"]).max() > 1e-3
    assert np.abs(centred["int8"].mean(0) - centred["fp32"].mean(0)).max() < 1e-5
    report = check_onnx(folded, tmp_path / "int8.onnx", frames[LEAST:], LOOSE)
    assert report.distance_error is not None and report.distance_error < 0.1


def test_the_gate_refuses_frames_that_were_calibrated_with(
    exported: tuple[FoldedHTCLIP, Path, torch.Tensor],
) -> None:
    folded, path, frames = exported
    known = some_frames(folded, LEAST + 3)[4:5]
    with pytest.raises(InputError, match="1 of the 4 frames to check on were calibrated with"):
        check_onnx(folded, path, torch.cat([frames, known]))
    assert torch.equal(without(torch.cat([known, frames, known]), known), frames)


def test_the_gate_names_a_block_with_outliers(tmp_path: Path) -> None:
    """A constant of 10,000 that the bias takes away again changes nothing in float32, and leaves int8 no steps."""
    folded = folded_model("timm")
    frames = some_frames(folded, LEAST + 3)
    block = folded.blocks[2]
    block.last_weight *= 8
    before = folded(frames)
    block.hidden_weight[0] = 0
    block.hidden_bias[0] = 1e4
    block.last_weight[:, 0] = 1.0
    block.last_bias -= 1e4
    assert (folded(frames) - before).abs().max() < 0.1 * before.abs().max()
    export_onnx(folded, tmp_path / "model.onnx", precision="int8", calibration=frames[:LEAST])
    report = check_onnx(folded, tmp_path / "model.onnx", frames[LEAST:], LOOSE)
    assert not report.passed and report.diverged == "blocks.2"
    assert report.own is not None and max(report.own, key=report.own.__getitem__) == "blocks.2"


def test_wrong_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folded = folded_model("timm")
    frames = some_frames(folded, LEAST)
    for options, message in [
        ({"precision": "int8"}, "frames to calibrate on go with int8, which needs them, and none were given"),
        ({"precision": "fp16", "calibration": frames}, "frames to calibrate on go with int8.* the precision is fp16"),
        ({"precision": "int8", "calibration": frames[:0]}, "frames is empty"),
        ({"precision": "int8", "calibration": frames[1:]}, "at least 8 frames to calibrate on, .* and there were 7"),
        ({"precision": "int8", "calibration": frames / 255}, "must be uint8, got torch.float32"),
        ({"precision": "int8", "calibration": frames, "channels": 3}, "takes 3 channels, and frames .* have 1"),
        ({"precision": "int8", "calibration": frames, "plugin": True}, "export without the plugin"),
    ]:
        with pytest.raises(InputError, match=message):
            export_onnx(folded, tmp_path / "model.onnx", **options)
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(InputError, match="int8 needs nncf, which is not installed: pip install nncf"):
        export_onnx(folded, tmp_path / "model.onnx", precision="int8", calibration=frames)
    assert not list(tmp_path.iterdir())


def test_classes_that_are_as_probable_agree() -> None:
    logits = np.array([[2.0, 2.01, 0.0], [2.0, 3.0, 0.0]], np.float32)
    assert _chosen(logits, np.array([0, 0], np.uint8)).tolist() == [1, 0]
    assert _chosen(logits, np.array([1, 1], np.uint8)).tolist() == [1, 1]
    assert _chosen(np.array([[0.01], [1.0]], np.float32), np.array([0, 0], np.uint8)).tolist() == [1, 0]


def test_nncf_reports_nothing_to_its_makers() -> None:
    """In a program of its own, because NNCF reports nothing from tests."""
    program = (
        "from ht_kernels.deploy.quantize import import_nncf; import_nncf(); "
        "from nncf.telemetry.wrapper import NNCFTelemetry, telemetry; print(isinstance(telemetry, NNCFTelemetry))"
    )
    outside = {name: value for name, value in os.environ.items() if name not in ("NNCF_CI", "NNCF_DEV")}
    done = subprocess.run([sys.executable, "-c", program], env=outside, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"


def phantoms(folder: Path, first: int, count: int) -> str:
    """A folder of linear scans of phantoms that nothing was trained on."""
    folder.mkdir()
    for number in range(first, first + count):
        Image.fromarray(simulate(draw_phantom(number, sector=False), number).image).save(folder / f"{number}.png")
    return str(folder)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A trained model passes; frames that are in both folders are checked on, and not calibrated with."""
    source, others = phantoms(tmp_path / "check", 9_000_000, 4), phantoms(tmp_path / "others", 9_000_003, 13)
    arguments = ["--precision", "int8", "--frames", source, "--calibrate", others]
    assert main(["export", "phantom", "--output", str(tmp_path / "model.onnx"), *arguments]) == 0
    said = capsys.readouterr()
    assert "int8 in onnxruntime, 4 frames, calibrated on 12 others" in said.out and "Statistics" not in said.out
    report = json.loads((tmp_path / "model.report.json").read_text())
    assert report["passed"] and (report["frames"], report["calibration_frames"]) == (4, 12)
    assert (tmp_path / "model.onnx").stat().st_size < 4e6 and read_manifest(tmp_path / "model.json").precision == "int8"


@pytest.mark.parametrize(("kind", "warned"), [("training", False), ("noise", True)])
def test_frames_of_another_kind_are_noticed(
    kind: str, warned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the model can tell; those that it was calibrated with are of its own kind."""
    model = calibrated(small_model("timm"))
    known = gray_frames(model, 40)[:LEAST]
    frames = known if kind == "training" else known // 8
    monkeypatch.setattr("ht_kernels.deploy.onnx.quantize", lambda graph, frames: graph)
    for folded, expected in ((ht.fold(model.float()), warned), (folded_model("timm"), False)):
        caplog.clear()
        export_onnx(folded, tmp_path / "model.onnx", precision="int8", calibration=frames)
        said = [record.message for record in caplog.records if "unlike the training images" in record.message]
        assert len(said) == expected, said
        assert not said or said[0].startswith("export: 8 of the 8 frames to calibrate on are unlike")


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clip = str(write_dicom(tmp_path / "clip.dcm", np.stack(clip_frames(16)), FrameTime="40"))
    few = phantoms(tmp_path / "few", 1, LEAST - 1)
    before = sorted(tmp_path.iterdir())
    int8 = ["--precision", "int8"]
    for arguments, message in [
        (["--calibrate", clip], "--calibrate goes with --precision int8, and the precision is fp32"),
        (int8, "needs frames like those that the file will see"),
        (
            [*int8, "--frames", few],
            "at least 8 frames to calibrate on, beside those to check",
        ),
        ([*int8, "--frames", clip, "--calibrate", few], "at least 8 frames to calibrate on, beside those to check"),
        ([*int8, "--frames", clip, "--calibrate", clip], f"{clip} leaves none: name another source with --calibrate"),
        ([*int8, "--frames", clip, "--calibrate", str(tmp_path / "none")], "there is no file or folder"),
        ([*int8, "--frames", clip, "--plugin"], "leave it out for --precision int8"),
    ]:
        assert main(["export", "phantom", "--output", str(tmp_path / "model.onnx"), *arguments]) == 2, message
        assert message in capsys.readouterr().err
        assert sorted(tmp_path.iterdir()) == before
    monkeypatch.setitem(sys.modules, "nncf", None)
    assert main(["export", "phantom", "--output", str(tmp_path / "model.onnx"), *int8, "--frames", clip]) == 2
    assert "int8 needs nncf, which is not installed: pip install nncf" in capsys.readouterr().err


def test_the_help_says_which_source_keeps_a_frame_that_is_in_both(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "frames that are in --frames too are only checked on" in said
