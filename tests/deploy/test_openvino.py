"""OpenVINO: files in its own format, devices and precisions, the cache, and the command line from export to stream.

What every runtime has in common is in test_session.py and test_distance.py.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import ht_kernels as ht
from helpers.exports import calibrated_model, corrupt, folded_model, names, some_frames
from helpers.small_towers import small_clip
from ht_kernels.cli import main
from ht_kernels.deploy import Session, build_ir, check_session, export_onnx, openvino_runtime, read_manifest
from ht_kernels.deploy.manifest import sha256, sha256_of_files, write_manifest
from ht_kernels.errors import BackendError, InputError
from ht_kernels.video.model import FrameModel

pytestmark = pytest.mark.usefixtures("one_thread")
openvino = pytest.importorskip("openvino")
CPU_TYPES = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def contrastive_model() -> ht.deploy.FoldedHTCLIP:
    return ht.fold(ht.HTCLIP(small_clip(), task="contrastive", bottleneck=8).eval().float())


def write_ir(folded: ht.deploy.FoldedHTCLIP, folder: Path, **options: object) -> Path:
    export_onnx(folded, folder / "model.onnx", **options)
    build_ir(folder / "model.onnx", folder / "model.xml")
    return folder / "model.xml"


@pytest.mark.parametrize("task", ["segmentation", "classification", "contrastive"])
def test_a_file_equals_torch(task: str, tmp_path: Path) -> None:
    folded = contrastive_model() if task == "contrastive" else calibrated_model(task=task)
    channels = 3 if task == "contrastive" else 1
    path = write_ir(folded, tmp_path, batch=(1, 2, 3), channels=channels)
    opened, graph = Session.open(path), Session.open(tmp_path / "model.onnx", runtime="onnxruntime")
    assert (opened.runtime, opened.device, graph.device) == ("openvino", "cpu", "cpu")
    for count in (3, 1, 2):
        frames = some_frames(folded, count, channels)
        torch.testing.assert_close(opened(frames), folded(frames), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(opened(frames), graph(frames), rtol=1e-4, atol=1e-4)
        if task != "contrastive":
            expected = folded.with_distance(frames)[1]
            torch.testing.assert_close(opened.with_distance(frames)[1], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("precision", "error"), [("fp32", 1e-5), ("fp16", 1e-2), ("bf16", 1e-1)])
def test_a_file_keeps_its_precision(precision: str, error: float, tmp_path: Path) -> None:
    """The weights take the bytes of the precision, and the gate runs the file in OpenVINO."""
    folded = folded_model()
    path = write_ir(folded, tmp_path, precision=precision)
    manifest = read_manifest(tmp_path / "model.xml.json")
    assert (manifest.kind, manifest.precision, manifest.file) == ("openvino", precision, "model.xml")
    assert manifest.versions["openvino"] == openvino.__version__
    bytes_of_graph = (tmp_path / "model.onnx").stat().st_size
    assert 0.5 < path.with_suffix(".bin").stat().st_size / bytes_of_graph < 1.1
    frames = some_frames(folded)
    report = check_session(folded, path, frames)
    assert report.passed and report.runtime == "openvino" and report.relative_error < error
    report = check_session(folded_model(variant="baseline"), path, frames)
    assert not report.passed and report.diverged == "ir"


def test_a_changed_file_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> None:
        raise AssertionError("read")

    path = write_ir(folded_model(), tmp_path)
    monkeypatch.setattr("ht_kernels.deploy.session.OpenVinoRuntime", never)
    for changed in (path, path.with_suffix(".bin")):
        content = changed.read_bytes()
        changed.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(InputError, match=r"model\.xml with .*model\.bin is not the file that the manifest"):
            Session.open(path)
        changed.unlink()
        with pytest.raises(InputError, match=f"{changed.name}, named by the manifest .* cannot be read"):
            Session.open(path)
        changed.write_bytes(content)
    path.with_name("model.xml.json").unlink()
    with pytest.raises(InputError, match=r"model\.xml\.json cannot be read"):
        Session.open(path)


def test_files_that_openvino_or_the_manifest_refuse(tmp_path: Path) -> None:
    path = write_ir(folded_model(), tmp_path)
    manifest = read_manifest(tmp_path / "model.xml.json")
    write_manifest(dataclasses.replace(manifest, input_shape=(1, 1, 5, 5), output_shape=(1, 3, 5, 5)), path)
    with pytest.raises(InputError, match=r"model\.xml takes and gives .* and its manifest says"):
        Session.open(path)
    path.write_text("<net>")
    contents = [path.read_bytes(), path.with_suffix(".bin").read_bytes()]
    write_manifest(dataclasses.replace(manifest, sha256=sha256_of_files(contents)), path)
    with pytest.raises(InputError, match=r"OpenVINO cannot read model\.xml"):
        Session.open(path)
    with pytest.raises(InputError, match=r"must end in \.xml"):
        build_ir(tmp_path / "model.onnx", tmp_path / "model.ir")
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0a" + b"\xff" * 99)
    graph = read_manifest_unchecked(tmp_path / "model.json", tmp_path / "model.onnx")
    write_manifest(graph, tmp_path / "model.onnx")
    with pytest.raises(InputError, match=r"OpenVINO .* refuses .*model\.onnx"):
        build_ir(tmp_path / "model.onnx", tmp_path / "other.xml")
    assert not (tmp_path / "other.bin").exists()
    with pytest.raises(BackendError, match="runs on openvino only"):
        Session.open(path, runtime="onnxruntime")


def read_manifest_unchecked(path: Path, file: Path) -> ht.deploy.manifest.Manifest:
    """The manifest at a path, with the hash that its changed file has now."""
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "sha256": sha256(file.read_bytes())}))
    return read_manifest(path)


@pytest.mark.skipif("NPU" in openvino.Core().available_devices, reason="is about machines without an NPU")
def test_devices_and_precisions(tmp_path: Path) -> None:
    folded = folded_model()
    with pytest.raises(BackendError, match=r"OpenVINO finds no NPU here: it finds CPU"):
        Session.open(folded, device="NPU")
    with pytest.raises(InputError, match="device must be one of CPU, GPU, NPU, got 'TPU'"):
        Session.open(folded, device="TPU")
    with pytest.raises(InputError, match="for the runtime openvino, got 'onnxruntime'"):
        Session.open(folded, runtime="onnxruntime", device="CPU")
    with pytest.raises(InputError, match="has its own"):
        Session.open(write_ir(folded, tmp_path), precision="fp16")
    for name, capability in (("fp16", "FP16"), ("bf16", "BF16")):
        if capability in CPU_TYPES:
            assert Session.open(folded, precision=name).runtime == "openvino"
        else:
            with pytest.raises(BackendError, match=rf"this CPU does not compute in {name}: its precisions are fp32"):
                Session.open(folded, precision=name)


def test_what_openvino_is_told() -> None:
    """Without it OpenVINO takes bfloat16 where the CPU has it, all cores, and binds threads to them."""
    compiled = Session.open(folded_model(), runtime="openvino")._run._request.get_compiled_model()
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    assert compiled.get_property("PERFORMANCE_HINT") == "LATENCY"
    assert compiled.get_property("INFERENCE_NUM_THREADS") == torch.get_num_threads()
    assert compiled.get_property("ENABLE_CPU_PINNING") is False


@pytest.mark.parametrize("runtime", [None, "openvino", "onnxruntime", "cpu"])
def test_a_report_names_the_device_alike_for_every_runtime(runtime: str | None) -> None:
    """Without a session the folded model runs itself."""
    folded = folded_model()
    model = folded if runtime is None else Session.open(folded, runtime=runtime, output="grid")
    assert FrameModel(model).describe()["device"] == "cpu"


def test_threads_of_onnx_runtime_do_not_spin() -> None:
    options = Session.open(folded_model(), runtime="onnxruntime")._run._session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


class Npu:
    """A stand-in for OpenVINO with an NPU, which keeps what it is asked to compile and runs it on the CPU."""

    def __init__(self) -> None:
        self.core, self.compiled = openvino.Core(), []
        self.available_devices = ["CPU", "NPU"]
        self.read_model = self.core.read_model
        self.name = "NPU of a test"

    def get_property(self, device: str, name: str) -> object:
        assert device == "NPU"
        return {"OPTIMIZATION_CAPABILITIES": ["FP16", "INT8"], "FULL_DEVICE_NAME": self.name}[name]

    def compile_model(self, model: object, device: str, options: dict[str, object]) -> object:
        self.compiled.append((device, options))
        return self.core.compile_model(model, "CPU")

    def import_model(self, blob: bytes, device: str, options: dict[str, object]) -> object:
        assert device == "NPU"
        return self.core.import_model(blob, "CPU")


@pytest.fixture
def npu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Npu:
    npu = Npu()
    monkeypatch.setattr(openvino_runtime, "import_openvino", lambda: SimpleNamespace(Core=lambda: npu))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return npu


def test_an_npu_takes_one_shape_and_half_precision(npu: Npu, tmp_path: Path) -> None:
    folded = folded_model()
    with pytest.raises(BackendError, match=r"this NPU does not compute in fp32: its precisions are fp16"):
        Session.open(folded, device="NPU")
    with pytest.raises(BackendError, match=r"the NPU takes one batch size, and model\.onnx is for 1 to 3 frames"):
        Session.open(folded, device="NPU", precision="fp16", batch=(1, 2, 3))
    opened = Session.open(folded, device="NPU", precision="fp16", batch=2)
    assert opened.device == "npu" and npu.compiled == [("NPU", {"PERFORMANCE_HINT": "LATENCY"})]
    torch.testing.assert_close(opened(some_frames(folded, 2)), folded(some_frames(folded, 2)), rtol=0.02, atol=0.02)
    with pytest.raises(BackendError, match="does not compute in fp32"):
        Session.open(write_ir_beside(folded, tmp_path), device="NPU")


def write_ir_beside(folded: ht.deploy.FoldedHTCLIP, folder: Path) -> Path:
    """A file in ONNX, which OpenVINO need not have written."""
    export_onnx(folded, folder / "model.onnx")
    return folder / "model.onnx"


def test_what_was_compiled_is_kept(npu: Npu, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Once for a model, a precision and a device; whatever is in the cache, the session opens and computes the same."""
    folded = folded_model()
    frames = some_frames(folded, 1)

    def results() -> torch.Tensor:
        return Session.open(folded, device="NPU", precision="fp16")(frames)

    first = results()
    assert torch.equal(results(), first) and len(npu.compiled) == 1
    (blob,) = (tmp_path / "cache").rglob("model.blob")
    content = blob.read_bytes()
    for damage in (b"", content[:-1], content[:-1] + bytes([content[-1] ^ 1])):
        before = len(npu.compiled)
        blob.write_bytes(damage)
        assert torch.equal(results(), first) and len(npu.compiled) == before + 1
    blob.write_bytes(b"no model")
    (blob.parent / "sha256").write_text(sha256(b"no model"))
    assert torch.equal(results(), first) and "its cache cannot be used" in caplog.text
    npu.name = "another NPU"
    before = len(npu.compiled)
    results()
    assert len(npu.compiled) == before + 1
    blob.parents[1].chmod(0o500)
    blob.unlink()
    assert torch.equal(results(), first)
    blob.parents[1].chmod(0o700)


def test_a_cache_that_cannot_be_written(
    npu: Npu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert Session.open(folded_model(), device="NPU", precision="fp16").runtime == "openvino"
    assert "its cache cannot be used: the cache" in caplog.text


@pytest.fixture
def export(whole_checkpoint: Path, clip: Path, tmp_path: Path) -> list[str]:
    """A command that writes ``model.xml`` into the folder of the test."""
    output = ["--output", str(tmp_path / "model.xml"), "--format", "openvino"]
    return ["export", str(whole_checkpoint), *output, "--frames", str(clip)]


def test_from_export_to_stream(
    export: list[str], whole_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, path = tmp_path / "clip.dcm", tmp_path / "model.xml"
    assert main(export) == 0
    said = capsys.readouterr().out
    assert "fp32 in onnxruntime, 5 frames" in said and "fp32 in openvino, 5 frames" in said
    assert "model.bin, model.xml.json and model.xml.report.json" in said
    written = ["clip.dcm", "model.bin", "model.xml", "model.xml.json", "model.xml.report.json"]
    written.append("model.xml.settings.yaml")
    assert names(tmp_path) == written
    report = json.loads((tmp_path / "model.xml.report.json").read_text())
    assert report["passed"] and report["ir"]["passed"] and report["ir"]["runtime"] == "openvino"
    for number, file in enumerate((path, whole_checkpoint)):  # of a checkpoint it is the fastest, and so the default
        out = tmp_path / f"out{number}"
        assert main(["stream", str(clip), "--checkpoint", str(file), "--output", str(out)]) == 0
        assert "by openvino" in capsys.readouterr().out
        model = json.loads((out / "report.json").read_text())["model"]
        assert (model["runtime"], model["device"]) == ("openvino", "cpu")


def test_a_failed_gate(
    export: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(graph: Path, path: Path) -> None:
        corrupt(graph, "blocks.5/mlp/last.weight", 1.5)
        read_manifest_unchecked(graph.with_suffix(".json"), graph)
        build_ir(graph, path)

    monkeypatch.setattr("ht_kernels.deploy.openvino_file.build_ir", wrong)
    assert main(export) == 3
    assert "error arises in OpenVINO, while the same graph in ONNX passed" in capsys.readouterr().err
    assert names(tmp_path) == ["clip.dcm", "model.xml.report.failed.json"]
    report = json.loads((tmp_path / "model.xml.report.failed.json").read_text())
    assert report["passed"] and not report["ir"]["passed"]


def test_bad_options(whole_checkpoint: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported = tmp_path / "alone.xml"
    exported.touch()
    before = names(tmp_path)
    stream = ["stream", str(clip), "--output", str(tmp_path / "out"), "--checkpoint", str(whole_checkpoint)]
    export = ["export", str(whole_checkpoint), "--format", "openvino", "--output"]
    for arguments, message in [
        ([*export, str(tmp_path / "model.onnx")], "must end in .xml"),
        ([*export, str(tmp_path / "model.xml"), "--plugin"], "--plugin is for TensorRT"),
        ([*stream, "--device", "NPU"], "OpenVINO finds no NPU here"),
        ([*stream, "--device", "CPU", "--runtime", "cpu"], "--device CPU goes with --runtime openvino, got cpu"),
        ([*stream[:-1], str(exported)], "alone.xml.json cannot be read"),
        ([*stream[:-1], str(exported), "--precision", "bf16"], "an exported file has its own precision"),
    ]:
        assert main(arguments) == 2, message
        assert message in capsys.readouterr().err
        assert names(tmp_path) == before, message
    if "BF16" not in CPU_TYPES:
        assert main([*stream, "--precision", "bf16"]) == 2
        assert "this CPU does not compute in bf16: its precisions are fp32" in capsys.readouterr().err


def test_a_precision_that_a_session_does_not_take() -> None:
    with pytest.raises(InputError, match=r"precision must be one of fp32, fp16, bf16, got 'fp8'"):
        Session.open(folded_model(), precision="fp8")
    with pytest.raises(InputError, match="ht-kernels export --precision int8"):
        Session.open(folded_model(), precision="int8")


def test_without_onnx(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Files run, and checkpoints run in torch, without a warning in each session."""
    folded, path = folded_model(), tmp_path / "model.onnx"
    export_onnx(folded, path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level(logging.WARNING, "ht_kernels"):
        assert Session.open(folded).runtime == "cpu" and Session.open(path).runtime == "openvino"
    assert not caplog.records
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    assert "available, for exported files only: a checkpoint is converted by onnx" in said
    assert "runs a checkpoint by cpu" in said


def test_without_openvino(
    whole_checkpoint: Path,
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    stream = ["stream", str(clip), "--output", str(tmp_path / "out"), "--checkpoint", str(whole_checkpoint)]
    with caplog.at_level(logging.WARNING, "ht_kernels"):
        assert main(stream) == 0
    assert "by onnxruntime" in capsys.readouterr().out and not caplog.records
    assert main([*stream, "--overwrite", "--runtime", "openvino"]) == 2
    assert "pip install openvino" in capsys.readouterr().err
    export = ["export", str(whole_checkpoint), "--format", "openvino", "--output", str(tmp_path / "model.xml")]
    assert main(export) == 2
    assert "pip install openvino" in capsys.readouterr().err
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    assert "openvino     no: OpenVINO is not installed: pip install openvino" in said
    assert "runs a checkpoint by onnxruntime" in said


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert list(facts["runtimes"]) == list(ht.deploy.session.RUNTIMES)
    assert facts["runtimes"]["openvino"] is None and facts["packages"]["openvino"]
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    assert f"available on CPU ({facts['openvino_devices']['CPU']})" in said
    if not torch.cuda.is_available():
        assert "runs a checkpoint by openvino" in said


def test_a_driver_installed_in_part(
    npu: Npu,
    whole_checkpoint: Path,
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A device that raises is listed with its error, and no recording asks for it."""

    def get_property(device: str, name: str) -> str:
        if device == "NPU":
            raise RuntimeError("the driver\nis too old")
        return "A test's CPU"

    monkeypatch.setattr(npu, "get_property", get_property)
    assert main(["info"]) == 0
    assert "available on CPU (A test's CPU), NPU (not usable: the driver is too old)" in capsys.readouterr().out

    def core() -> None:
        raise RuntimeError("no plugin loads")

    monkeypatch.setattr(openvino_runtime, "import_openvino", lambda: SimpleNamespace(Core=core))
    assert main(["info"]) == 0
    assert "openvino     no: OpenVINO cannot start (no plugin loads): install it again" in capsys.readouterr().out
    stream = ["stream", str(clip), "--checkpoint", str(whole_checkpoint), "--output", str(tmp_path / "out")]
    assert main([*stream, "--runtime", "cpu"]) == 0
    assert (tmp_path / "out" / "report.json").exists()
