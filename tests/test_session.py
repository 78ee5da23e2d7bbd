"""Sessions: every runtime that runs here against torch, refusals, fallback, and the cache between processes."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import logging
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_onnx import folded_model, some_frames

from ht_kernels.deploy import Session, build_engine, check_session, export_onnx, read_manifest, runtimes, session
from ht_kernels.deploy.cache import cached
from ht_kernels.deploy.manifest import sha256, write_manifest
from ht_kernels.errors import BackendError, InputError

pytestmark = pytest.mark.usefixtures("one_thread")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")


@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "cpu"])
def test_equals_torch(runtime: str, task: str) -> None:
    folded = folded_model(task=task)
    opened = Session.open(folded, runtime=runtime, batch=(1, 2, 3))
    assert (opened.runtime, opened.output, opened.task, opened.num_classes) == (runtime, "logits", task, 3)
    results = {count: opened(some_frames(folded, count)) for count in (3, 1, 2)}
    for count, got in results.items():  # a later call leaves an earlier result as it was
        torch.testing.assert_close(got, folded(some_frames(folded, count)), rtol=1e-4, atol=1e-4)


@no_gpu
def test_falls_back_in_order_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ht_kernels"):
        opened = Session.open(folded_model())
    assert opened.runtime == "onnxruntime" and list(opened.refused) == ["tensorrt", "cuda_graph"]
    assert "tensorrt is not used: there is no NVIDIA GPU" in caplog.text
    assert "running on onnxruntime instead" in caplog.text


def test_cpu_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    opened = Session.open(folded_model())
    assert opened.runtime == "cpu" and "pip install onnxruntime" in opened.refused["onnxruntime"]


@no_gpu
@pytest.mark.parametrize(("runtime", "reason"), [("tensorrt", "no NVIDIA GPU"), ("cuda_graph", "need a model on")])
def test_a_runtime_asked_for_does_not_fall_back(runtime: str, reason: str) -> None:
    with pytest.raises(BackendError, match=reason):
        Session.open(folded_model(), runtime=runtime)


@pytest.mark.parametrize("output", ["logits", "mask"])
def test_an_onnx_file(output: str, tmp_path: Path) -> None:
    folded = folded_model()
    export_onnx(folded, tmp_path / "model.onnx", output=output, channels=3)
    opened = Session.open(tmp_path / "model.onnx", runtime="onnxruntime")
    frames = some_frames(folded, 1, 3)
    expected = folded(frames)
    if output == "mask":
        assert torch.equal(opened(frames), folded.classes(expected))
    else:
        torch.testing.assert_close(opened(frames), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(BackendError, match=r"runs on tensorrt or onnxruntime only"):
        Session.open(tmp_path / "model.onnx", runtime="cpu")


@pytest.mark.parametrize("output", ["logits", "mask"])
def test_a_session_is_checked_against_torch(output: str, tmp_path: Path) -> None:
    folded = folded_model()
    path = tmp_path / "model.onnx"
    export_onnx(folded, path, output=output, batch=(2, 2, 4))
    frames = some_frames(folded, 5)  # one more than the largest batch, and then less than the smallest
    report = check_session(folded, path, frames)
    assert report.passed and report.frames == 5 and report.runtime == "onnxruntime"
    assert (report.relative_error is None) == (output == "mask") and report.agreement_worst > 0.999
    report = check_session(folded_model(variant="baseline"), path, frames)
    assert not report.passed and any("agreement" in failure for failure in report.failures)


def test_wrong_frames_and_options() -> None:
    folded = folded_model()
    opened = Session.open(folded, runtime="cpu", batch=(1, 1, 2))
    for frames in (some_frames(folded, 3), some_frames(folded, 1, 3), some_frames(folded)[0]):
        with pytest.raises(InputError, match=r"frames must have shape \(1 to 2, 1,"):
            opened(frames)
    with pytest.raises(TypeError, match=r"frames must be uint8, got torch\.float32"):
        opened(some_frames(folded, 1).float())
    with pytest.raises(InputError, match="runtime must be one of tensorrt, cuda_graph"):
        Session.open(folded, runtime="gpu")
    with pytest.raises(InputError, match="batch must be"):
        Session.open(folded, batch=0)


def test_hostile_files_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    written = export_onnx(folded_model(), path)
    content = path.read_bytes()

    def never(*args: object) -> None:
        raise AssertionError("deserialised")

    with monkeypatch.context() as patch:
        patch.setattr(session, "OnnxRuntime", never)
        patch.setattr(session, "EngineRuntime", never)
        path.write_bytes(content + b"\0")
        with pytest.raises(InputError, match="sha256"):
            Session.open(path)
        path.write_bytes(content)
        for change, message in [
            ({"kind": "pickle"}, "kind 'pickle', which a session cannot run"),
            ({"file": "../model.onnx"}, "expected a file in its own folder"),
            ({"batch": [1, 2]}, "is damaged: batch"),
            ({"format": 99}, "manifest format 99"),
        ]:
            (tmp_path / "model.json").write_text(json.dumps({**dataclasses.asdict(written), **change}))
            with pytest.raises(InputError, match=message):
                Session.open(path)
        (tmp_path / "model.json").unlink()
        with pytest.raises(InputError, match=r"model\.json cannot be read"):
            Session.open(path)
    write_manifest(dataclasses.replace(written, input_shape=(1, 1, 5, 5), output_shape=(1, 3, 5, 5)), path)
    with pytest.raises(InputError, match="its manifest says"):
        Session.open(path, runtime="onnxruntime")
    garbage = b"\x08\x0a" + b"\xff" * 99
    path.write_bytes(garbage)
    write_manifest(dataclasses.replace(written, sha256=sha256(garbage)), path)
    with pytest.raises(InputError, match=r"ONNX Runtime cannot read model\.onnx"):
        Session.open(path, runtime="onnxruntime")


@no_gpu
def test_engines_of_another_version_or_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx")
    export_onnx(folded_model(), tmp_path / "model.onnx")
    path = tmp_path / "model.engine"
    built = build_engine(tmp_path / "model.onnx", path, targets=["sm_86"])
    with pytest.raises(BackendError, match="there is no NVIDIA GPU"):
        Session.open(path)
    monkeypatch.setattr(runtimes, "gpu_target", lambda: "sm_89")
    with pytest.raises(BackendError, match="was built for sm_86, and this GPU is sm_89"):
        Session.open(path)
    versions = {**built.versions, "tensorrt_rtx": "1.0"}
    write_manifest(dataclasses.replace(built, versions=versions), path)
    with pytest.raises(InputError, match=r"was built by tensorrt_rtx 1\.0, and .* is here"):
        Session.open(path)


def test_the_engine_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Building, finding again and rebuilding; the engine's run is stood in for, as it needs its GPU."""
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for module in (session, runtimes):
        monkeypatch.setattr(module, "gpu_target", lambda: "sm_86")
    opened: list[str] = []

    def stand_in(content: bytes, manifest: object) -> object:
        opened.append(sha256(content))
        return lambda frames: torch.zeros(len(frames), 3, *frames.shape[2:])

    monkeypatch.setattr(session, "EngineRuntime", stand_in)
    phases: list[str] = []
    folded = folded_model()
    for _ in range(2):
        assert Session.open(folded, runtime="tensorrt", progress=phases.append).runtime == "tensorrt"
        assert phases.count("Building engine") == 1
    (engine,) = (tmp_path / "cache/ht_kernels").glob("*/model.engine")
    assert read_manifest(f"{engine}.json").targets == ("sm_86",)
    engine.write_bytes(b"damaged")
    Session.open(folded, runtime="tensorrt", progress=phases.append)
    assert phases.count("Building engine") == 2 and len(opened) == 3 and sha256(b"damaged") not in opened
    Session.open(folded, runtime="tensorrt", batch=2)
    assert len(list((tmp_path / "cache/ht_kernels").glob("*/model.engine"))) == 2


class FakeTensorRT:
    """What a session calls of TensorRT, in host memory: the engine adds one to each pixel."""

    Logger = type("Logger", (), {"ERROR": 0, "__init__": lambda self, level: None})

    class Runtime:
        def __init__(self, logger: object) -> None: ...

        def deserialize_cuda_engine(self, content: bytes) -> object:
            return None if content == b"broken" else FakeEngine()


class FakeEngine:
    num_io_tensors = 2

    def get_tensor_name(self, index: int) -> str:
        return ("frames", "mask")[index]

    def create_execution_context(self) -> FakeEngine:
        self.addresses: dict[str, int] = {}
        return self

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self.count = torch.Size(shape).numel()

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        data = ctypes.string_at(self.addresses["frames"], self.count)
        ctypes.memmove(self.addresses["mask"], bytes(value + 1 for value in data), self.count)
        return True


def test_an_engine_is_called_as_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folded = folded_model()
    manifest = dataclasses.replace(
        export_onnx(folded, tmp_path / "model.onnx", output="mask", batch=(1, 1, 2)), kind="tensorrt", file="a.engine"
    )
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT)
    monkeypatch.setattr(runtimes, "check_engine", lambda manifest: None)
    make = runtimes._buffer
    monkeypatch.setattr(runtimes, "_buffer", lambda shape, kind, batch, device: make(shape, kind, batch, "cpu"))
    stream = SimpleNamespace(cuda_stream=0, wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: torch.inference_mode())
    engine = runtimes.EngineRuntime(b"good", manifest)
    frames = some_frames(folded, 2).clamp(max=254)
    first = engine(frames)
    assert torch.equal(first, frames[:, 0] + 1)
    assert torch.equal(engine(frames[:1]), frames[:1, 0] + 1) and torch.equal(first, frames[:, 0] + 1)
    with pytest.raises(InputError, match="has no TensorRT plugin"):  # before the engine is read
        runtimes.EngineRuntime(b"broken", dataclasses.replace(manifest, plugin=True))
    with pytest.raises(InputError, match=r"tensorrt cannot read a\.engine"):
        runtimes.EngineRuntime(b"broken", manifest)
    with pytest.raises(InputError, match="its manifest others"):
        runtimes.EngineRuntime(b"good", dataclasses.replace(manifest, output_name="logits"))


def test_two_processes_make_one(tmp_path: Path) -> None:
    code = """
        import sys, time
        from pathlib import Path
        from ht_kernels.deploy.cache import cached
        root = Path(sys.argv[1])
        def make(folder):
            with (root / "made").open("a") as file:
                file.write("x")
            time.sleep(1)
            (folder / "content").write_text("whole")
        def good(folder):
            return (folder / "content").read_text() == "whole"
        print(cached({"a": 1}, make, good, root / "cache"))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    environment = {"PYTHONPATH": ":".join(sys.path)}
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    first, second = (process.communicate(timeout=60)[0] for process in both)
    assert first == second and Path(first.strip(), "content").exists()
    assert (tmp_path / "made").read_text() == "x"


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "half").touch()
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        cached({}, make, lambda folder: True, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="XDG_CACHE_HOME"):
        cached({}, make, lambda folder: True, tmp_path / "file")
