"""The model repository for Triton Inference Server, read back with the server's own configuration schema."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from helpers.exports import folded_model, some_frames
from helpers.small_models import small_model
from ht_kernels import fold
from ht_kernels.cli import main
from ht_kernels.deploy import export_onnx, read_manifest
from ht_kernels.deploy.server import write_repository
from ht_kernels.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")


def parsed(folder: Path):
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    text_format = pytest.importorskip("google.protobuf.text_format")
    return schema, text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())


def test_a_dynamic_batch_is_the_servers(tmp_path: Path) -> None:
    folded = folded_model()
    export_onnx(folded, tmp_path / "model.onnx", batch=(1, 2, 8), output="mask")
    folder = write_repository(tmp_path / "model.onnx", tmp_path / "segment")
    schema, config = parsed(folder)
    height, width = folded.image_size
    assert config.name == "segment" and config.max_batch_size == 8 and config.backend == "onnxruntime"
    assert list(config.dynamic_batching.preferred_batch_size) == [2]
    assert (config.input[0].data_type, list(config.input[0].dims)) == (schema.TYPE_UINT8, [1, height, width])
    assert (config.output[0].data_type, list(config.output[0].dims)) == (schema.TYPE_UINT8, [height, width])
    assert list(config.model_warmup[0].inputs["frames"].dims) == [1, height, width]
    served = folder / "1" / config.default_model_filename
    frames = some_frames(folded, 2).numpy()
    session = onnxruntime.InferenceSession(served, providers=["CPUExecutionProvider"])
    assert session.run([config.output[0].name], {config.input[0].name: frames})[0].shape == (2, height, width)
    assert read_manifest(folder / "1" / "model.json").file == config.default_model_filename


def test_a_fixed_batch_is_in_the_shape(tmp_path: Path) -> None:
    folded = folded_model(task="classification")
    export_onnx(folded, tmp_path / "model.onnx", batch=3)
    _, config = parsed(write_repository(tmp_path / "model.onnx", tmp_path / "classify"))
    assert config.max_batch_size == 0 and not config.HasField("dynamic_batching")
    assert list(config.input[0].dims) == [3, 1, *folded.image_size] and list(config.output[0].dims) == [3, 3]


def test_names_of_a_single_logit(tmp_path: Path) -> None:
    """The server names the largest value of a result, and a single one is always the largest."""
    for task in ("segmentation", "classification"):
        folded = fold(small_model("timm", task, num_classes=1, class_names=("lesion",)).float())
        export_onnx(folded, tmp_path / "model.onnx")
        folder = write_repository(tmp_path / "model.onnx", tmp_path / task)
        assert "label_filename" not in (folder / "config.pbtxt").read_text()
        assert (folder / "labels.txt").read_text() == "background\nlesion\n"


def test_command(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "segment"
    arguments = ["export", str(checkpoint), "--output", str(output), "--format", "triton-server", "--batch", "1:2:4"]
    assert main(arguments) == 0
    assert f"wrote {output}, its configuration and segment.report.json" in capsys.readouterr().out
    _, config = parsed(output)
    assert config.max_batch_size == 4 and (output / "labels.txt").read_text() == "background\nlesion\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "segment",
        "segment.report.json",
        "segment.settings.yaml",
    ]
    assert main(arguments) == 2 and "exists: name a new folder" in capsys.readouterr().err


def test_wrong_arguments(tmp_path: Path) -> None:
    export_onnx(folded_model(), tmp_path / "model.onnx")
    with pytest.raises(InputError, match="becomes the model's"):
        write_repository(tmp_path / "model.onnx", tmp_path / "my model")
    with pytest.raises(InputError, match="exists: name a new folder"):
        write_repository(tmp_path / "model.onnx", tmp_path)
    with pytest.raises(InputError, match=r"there is no file .*missing\.onnx"):
        write_repository(tmp_path / "missing.onnx", tmp_path / "served")
    with pytest.raises(InputError, match="cannot be written: Not a directory"):
        (tmp_path / "file").write_text("")
        write_repository(tmp_path / "model.onnx", tmp_path / "file" / "served")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "model.json", "model.onnx"]
