"""The distance from the training images as the second output of exported files, on every runtime."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from helpers.exports import calibrated_model, corrupt, folded_model, some_frames
from helpers.small_towers import TOWERS
from ht_kernels.deploy import Session, check_onnx, check_session, export_onnx, read_manifest
from ht_kernels.deploy.manifest import sha256, write_manifest
from ht_kernels.deploy.server import write_repository
from ht_kernels.distance_scale import DistanceScale
from ht_kernels.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")


def run(path: Path, frames: torch.Tensor) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"frames": frames.numpy()}), strict=True))


@pytest.mark.parametrize("output", ["logits", "mask"])
@pytest.mark.parametrize("tower", [*TOWERS, "timm, no prefix"])
def test_the_file_gives_what_torch_gives(tower: str, output: str, tmp_path: Path) -> None:
    folded = calibrated_model(tower)
    written = export_onnx(folded, tmp_path / "model.onnx", batch=(1, 2, 4), output=output)
    for batch in (1, 3):
        frames = some_frames(folded, batch)
        got = run(tmp_path / "model.onnx", frames)
        assert list(got) == [output, "distance"]
        np.testing.assert_allclose(got["distance"], folded.with_distance(frames)[1], rtol=1e-4)
    manifest = read_manifest(tmp_path / "model.json")
    assert manifest == written and manifest.familiarity == folded.familiarity.scale
    assert manifest.outputs[1:] == [("distance", ("batch",), "float32")]


@pytest.mark.parametrize("options", [{"feature_layers": (1,)}, {"task": "classification", "num_classes": 1}])
def test_one_level_and_classification(options: dict[str, object], tmp_path: Path) -> None:
    folded = calibrated_model(**options)
    export_onnx(folded, tmp_path / "model.onnx", batch=2)
    frames = some_frames(folded, 2)
    logits, distance = run(tmp_path / "model.onnx", frames).values()
    expected = folded.with_distance(frames)
    np.testing.assert_allclose(logits, expected[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(distance, expected[1], rtol=1e-4)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_sixteen_bits_keep_the_distance_in_float32(precision: str, tmp_path: Path) -> None:
    """A type is checked by the checker; what is computed is the gate's."""
    folded = calibrated_model()
    path = tmp_path / "model.onnx"
    export_onnx(folded, path, precision=precision)
    model = onnx.load(path)
    of_distance = [tensor for tensor in model.graph.initializer if tensor.name.startswith("distance")]
    assert len(of_distance) == 5 and {tensor.data_type for tensor in of_distance} == {onnx.TensorProto.FLOAT}
    assert model.graph.output[1].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    report = check_onnx(folded, path, some_frames(folded))
    assert report.passed and 0 < report.distance_error < report.thresholds.distance


def test_the_gate_sees_a_wrong_distance(tmp_path: Path) -> None:
    """Also where the logits are right, in both of its ways, and it names the end of the model."""
    folded, path = calibrated_model(), tmp_path / "model.onnx"
    manifest = export_onnx(folded, path, batch=(1, 2, 4))
    frames = some_frames(folded, 5)
    for report in (check_onnx(folded, path, frames), check_session(folded, path, frames)):
        assert report.passed and report.distance_error < 1e-5
    corrupt(path, "distance.beside", 1.01)
    write_manifest(dataclasses.replace(manifest, sha256=sha256(path.read_bytes())), path)
    for report in (check_onnx(folded, path, frames), check_session(folded, path, frames)):
        assert not report.passed and report.relative_error < 1e-4
        (failure,) = report.failures
        assert "error of distances is 0.00" in failure
    assert check_onnx(folded, path, frames).diverged == "head"
    path = tmp_path / "plain.onnx"
    export_onnx(folded_model(), path)
    assert check_onnx(folded_model(), path, frames).distance_error is None
    with pytest.raises(InputError, match=r"the file gives distance \(5,\) float32, expected logits"):
        check_onnx(folded_model(), tmp_path / "model.onnx", frames)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime", "cpu"])
def test_a_session(runtime: str) -> None:
    folded = calibrated_model()
    opened = Session.open(folded, runtime=runtime, batch=(1, 2, 3))
    assert opened.familiarity == folded.familiarity.scale
    frames = some_frames(folded, 3)
    expected = folded.with_distance(frames)
    for got, wanted in zip(opened.with_distance(frames), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
        got.zero_()  # it belongs to the caller
    torch.testing.assert_close(opened(frames), expected[0], rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match=r"frames must have shape \(1 to 3, 1,"):
        opened.with_distance(some_frames(folded, 4))
    with pytest.raises(TypeError, match="frames must be uint8"):
        opened.with_distance(frames.float())


def test_a_session_of_a_model_that_is_not_calibrated(tmp_path: Path) -> None:
    export_onnx(folded_model(), tmp_path / "model.onnx")
    for model in (folded_model(), tmp_path / "model.onnx"):
        opened = Session.open(model, runtime="onnxruntime")
        assert opened.familiarity is None
        with pytest.raises(InputError, match="export it again"):
            opened.with_distance(some_frames(folded_model(), 1))


def test_a_file_that_lacks_its_distance(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    plain = export_onnx(folded_model(), path)
    write_manifest(dataclasses.replace(plain, familiarity=DistanceScale(2.0, (1.0, 2.0))), path)
    with pytest.raises(InputError, match="its manifest says"):
        Session.open(path, runtime="onnxruntime")


def test_manifests_of_older_versions(tmp_path: Path) -> None:
    export_onnx(folded_model(), tmp_path / "model.onnx")
    values = json.loads((tmp_path / "model.json").read_text())
    assert values.pop("familiarity") is None
    (tmp_path / "model.json").write_text(json.dumps(values))
    assert read_manifest(tmp_path / "model.json").familiarity is None


@pytest.mark.parametrize(
    "damaged",
    [
        3,
        {},
        [],
        {"limit": 1.0},
        {"limit": "1", "quantiles": [1.0, 2.0]},
        {"limit": 1, "quantiles": [1.0, 2.0]},
        {"limit": True, "quantiles": [1.0, 2.0]},
        {"limit": -1.0, "quantiles": [1.0, 2.0]},
        {"limit": float("nan"), "quantiles": [1.0, 2.0]},
        {"limit": float("inf"), "quantiles": [1.0, 2.0]},
        {"limit": 1.0, "quantiles": []},
        {"limit": 1.0, "quantiles": [1.0]},
        {"limit": 1.0, "quantiles": [2.0, 1.0]},
        {"limit": 1.0, "quantiles": [-1.0, 1.0]},
        {"limit": 1.0, "quantiles": [1.0, float("nan")]},
        {"limit": 1.0, "quantiles": [1.0, "2"]},
        {"limit": 1.0, "quantiles": 3.0},
        {"limit": 1.0, "quantiles": [1.0, 2.0], "more": 1},
    ],
)
def test_a_damaged_manifest(damaged: object, tmp_path: Path) -> None:
    export_onnx(calibrated_model(), tmp_path / "model.onnx")
    path = tmp_path / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "familiarity": damaged}))
    with pytest.raises(InputError, match=r"model\.json is damaged: familiarity is .*; export the model again"):
        read_manifest(path)


@pytest.mark.parametrize("batch", [3, (1, 2, 8)])
def test_the_server_lists_it(batch: int | tuple[int, int, int], tmp_path: Path) -> None:
    """One number per frame has no dimensions beside the batch, and the server takes such a tensor reshaped only."""
    export_onnx(calibrated_model(), tmp_path / "model.onnx", batch=batch)
    folder = write_repository(tmp_path / "model.onnx", tmp_path / "segment")
    text = (folder / "config.pbtxt").read_text()
    dims = "[ 3 ]" if batch == 3 else "[ 1 ] reshape { shape: [ ] }"
    outputs = [line for line in text.splitlines() if line.startswith("output")]
    assert outputs[0].startswith('output { name: "logits" data_type: TYPE_FP32 dims: [ 3, ')
    assert outputs[1:] == [f'output {{ name: "distance" data_type: TYPE_FP32 dims: {dims} }}']
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    config = pytest.importorskip("google.protobuf.text_format").Parse(text, schema.ModelConfig())
    assert list(config.output[1].dims) == ([3] if batch == 3 else [1]) and list(config.output[1].reshape.shape) == []
    assert config.output[1].HasField("reshape") == (batch != 3) and not config.output[0].HasField("reshape")
