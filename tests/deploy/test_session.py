"""Sessions: every runtime that runs here against torch, refusals, fallback, and the cache between processes."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.cuda_stand_in import CudaStandIn, OnGpu, stand_in
from helpers.exports import calibrated_model, folded_model, some_frames
from helpers.small_models import small_model
from helpers.tensorrt_stand_in import FakeEngine, FakeTensorRT
from ht_kernels.deploy import (
    Session,
    build_engine,
    check_session,
    engine_cache,
    engine_runtime,
    export_onnx,
    folded_runtimes,
    read_manifest,
    runtimes,
    session,
)
from ht_kernels.deploy.cache import cached
from ht_kernels.deploy.here import runtimes as runtimes_here
from ht_kernels.deploy.manifest import sha256, write_manifest
from ht_kernels.deploy.onnx import import_onnx
from ht_kernels.deploy.openvino_runtime import import_openvino
from ht_kernels.deploy.quantize import import_nncf
from ht_kernels.distance_scale import DistanceScale
from ht_kernels.errors import BackendError, InputError

pytestmark = pytest.mark.usefixtures("one_thread")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")


@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime", "cpu"])
def test_equals_torch(runtime: str, task: str) -> None:
    folded = folded_model(task=task)
    opened = Session.open(folded, runtime=runtime, batch=(1, 2, 3))
    assert (opened.runtime, opened.output, opened.task, opened.num_classes) == (runtime, "logits", task, 3)
    results = {count: opened(some_frames(folded, count)) for count in (3, 1, 2)}
    for count, got in results.items():  # a later call leaves an earlier result as it was
        torch.testing.assert_close(got, folded(some_frames(folded, count)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime", "cpu"])
def test_arrays_give_arrays(runtime: str) -> None:
    """The same numbers as tensors do, in any order of memory and where they must not be written."""
    folded = calibrated_model()
    opened = Session.open(folded, runtime=runtime, batch=(1, 2, 3))
    frames = some_frames(folded)
    expected, far = opened.with_distance(frames)
    array = frames.numpy().copy()
    array.flags.writeable = False
    turned = np.ascontiguousarray(array[:, :, ::-1])[:, :, ::-1]
    for given in (array, turned):
        result, distances = opened.with_distance(given)
        assert isinstance(result, np.ndarray) and isinstance(distances, np.ndarray)
        assert np.array_equal(result, expected.numpy()) and np.array_equal(distances, far.numpy())
        assert np.array_equal(opened(given), result)


@no_gpu
def test_falls_back_in_order_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ht_kernels"):
        opened = Session.open(folded_model())
    assert opened.runtime == "openvino" and list(opened.refused) == ["tensorrt", "cuda_graph"]
    assert "tensorrt is not used: there is no NVIDIA GPU" in caplog.text
    assert "running on openvino" in caplog.text
    assert all(record.levelno == logging.INFO for record in caplog.records)  # nothing is wrong with such a machine


def test_cpu_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    opened = Session.open(folded_model())
    assert opened.runtime == "onnxruntime" and "pip install openvino" in opened.refused["openvino"]
    for name in ("onnxruntime", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    opened = Session.open(folded_model())
    assert opened.runtime == "cpu" and "pip install onnxruntime" in opened.refused["onnxruntime"]


@no_gpu
@pytest.mark.parametrize(("runtime", "reason"), [("tensorrt", "no NVIDIA GPU"), ("cuda_graph", "need a model on")])
def test_a_runtime_asked_for_does_not_fall_back(runtime: str, reason: str) -> None:
    with pytest.raises(BackendError, match=reason):
        Session.open(folded_model(), runtime=runtime)


@pytest.mark.parametrize("output", ["logits", "mask", "grid"])
def test_an_onnx_file(output: str, tmp_path: Path) -> None:
    folded = folded_model()
    export_onnx(folded, tmp_path / "model.onnx", output=output, channels=3)
    opened = Session.open(tmp_path / "model.onnx", runtime="onnxruntime")
    frames = some_frames(folded, 1, 3)
    expected = folded(frames)
    if output == "mask":
        assert torch.equal(opened(frames), folded.classes(expected))
    else:
        expected = folded(frames, output_size=folded.grid) if output == "grid" else expected
        torch.testing.assert_close(opened(frames), expected, rtol=1e-4, atol=1e-4)
    assert Session.open(tmp_path / "model.onnx", runtime="onnxruntime", output=output).output == output
    with pytest.raises(InputError, match="and embeddings was asked for"):
        Session.open(tmp_path / "model.onnx", output="embeddings")
    with pytest.raises(BackendError, match=r"runs on tensorrt or openvino or onnxruntime only"):
        Session.open(tmp_path / "model.onnx", runtime="cpu")


@pytest.mark.parametrize("runtime", ["onnxruntime", "cpu"])
def test_logits_on_the_grid(runtime: str) -> None:
    folded = folded_model()
    opened = Session.open(folded, runtime=runtime, output="grid")
    frames = some_frames(folded, 1)
    expected = folded(frames, output_size=folded.grid)
    assert opened.output == "grid" and expected.shape == (1, 3, *folded.grid)
    torch.testing.assert_close(opened(frames), expected, rtol=1e-4, atol=1e-4)
    for model, output in ((folded, "mask"), (folded_model(task="classification"), "grid")):
        with pytest.raises(InputError, match="output must be None, or grid of a segmentation model"):
            Session.open(model, runtime=runtime, output=output)


@pytest.mark.parametrize("output", ["logits", "mask", "grid"])
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
    with pytest.raises(InputError, match="frames are a tensor on 'meta', which has no values"):
        opened(some_frames(folded, 1).to("meta"))
    with pytest.raises(InputError, match="runtime must be one of tensorrt, cuda_graph"):
        Session.open(folded, runtime="gpu")
    for batch in (0, 4097):
        with pytest.raises(InputError, match="batch must be"):
            Session.open(folded, batch=batch)
    with pytest.raises(TypeError, match="frames must be uint8, got float64"):
        opened(some_frames(folded, 1).double().numpy())
    with pytest.raises(TypeError, match="frames must be a uint8 array or tensor, got list"):
        opened(some_frames(folded, 1).tolist())  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="frames must be a tensor, got ndarray"):
        folded(some_frames(folded, 1).numpy())
    with pytest.raises(TypeError, match="path of an exported file, got HTCLIP: "):
        Session.open(small_model())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="device must be one of CPU, GPU, NPU, got ''"):
        Session.open(folded, device="")


def test_what_cannot_be_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before a graph is made or a file is read."""
    monkeypatch.setattr(folded_runtimes, "GraphRunner", Mock(side_effect=AssertionError))
    folded = folded_model()
    for options, message in (
        ({}, "compiled is for a model on an NVIDIA GPU, and this one is on cpu: leave it out"),
        ({"runtime": "cpu"}, "compiled is for the runtime cuda_graph, got 'cpu'"),
        ({"device": "NPU"}, "device and precision are for the runtime openvino, got 'cuda_graph'"),
    ):
        with pytest.raises(InputError, match=message):
            Session.open(folded, compiled=True, **options)
    with pytest.raises(InputError, match=r"compiled is for a folded model, and .*new\.onnx is a file: leave it out"):
        Session.open(tmp_path / "new.onnx", compiled=True)


def test_a_file_has_its_own_batch(tmp_path: Path) -> None:
    export_onnx(folded_model(), tmp_path / "model.onnx", batch=(1, 2, 4))
    for batch in (1, 2, (1, 2, 4)):
        with pytest.raises(InputError, match=r"batch is for a folded model, and .*model\.onnx takes 1 to 4 at once"):
            Session.open(tmp_path / "model.onnx", batch=batch)


def test_renamed_files(tmp_path: Path) -> None:
    """The message says what happened and what to do, whichever of the two was renamed."""
    export_onnx(folded_model(), tmp_path / "model.onnx")
    (tmp_path / "model.onnx").rename(tmp_path / "new.onnx")
    with pytest.raises(InputError, match=r"there is no file .*nothing\.onnx"):
        Session.open(tmp_path / "nothing.onnx")
    with pytest.raises(InputError, match=r"new\.json cannot be read: there is none.* if new\.onnx was renamed, give"):
        Session.open(tmp_path / "new.onnx")
    (tmp_path / "model.json").rename(tmp_path / "new.json")
    with pytest.raises(InputError, match=r"new\.json is of model\.onnx, so files were renamed.* or export the model"):
        Session.open(tmp_path / "new.onnx")
    for name in ("onnx", "json"):
        (tmp_path / f"new.{name}").rename(tmp_path / f"model.{name}")
    assert Session.open(tmp_path / "model.onnx").output == "logits"


@pytest.mark.parametrize("kind", [OSError, RuntimeError])
@pytest.mark.parametrize(
    ("package", "use", "sentence"),
    [
        ("openvino", import_openvino, "this needs OpenVINO"),
        ("onnxruntime", runtimes.import_onnxruntime, "this needs ONNX Runtime"),
        ("onnx", import_onnx, "the export needs onnx"),
        ("nncf", import_nncf, "int8 needs nncf"),
    ],
)
def test_a_package_whose_libraries_are_broken(
    kind: type[Exception],
    package: str,
    use: Callable[[], object],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(f"raise {kind.__name__}('libcore.so: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    message = rf"{sentence}, which is installed and cannot be imported \({kind.__name__}: libcore\.so: no such file\)"
    with pytest.raises(InputError, match=message):
        use()
    if package in ("openvino", "onnxruntime"):
        assert re.search(message, str(runtimes_here()[package]))
        assert Session.open(folded_model()).runtime != package


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
    monkeypatch.setattr(engine_runtime, "gpu_target", lambda: "sm_89")
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
    for module in (engine_cache, engine_runtime, folded_runtimes):
        monkeypatch.setattr(module, "gpu_target", lambda: "sm_86")
    opened: list[str] = []

    def stand_in(content: bytes, manifest: object) -> object:
        opened.append(sha256(content))
        run: Any = Mock(side_effect=lambda frames: torch.zeros(len(frames), 3, *frames.shape[2:]))
        run.device = "cuda:0"
        return run

    monkeypatch.setattr(engine_cache, "EngineRuntime", stand_in)
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


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[CudaStandIn]:
    """The stand-in, with TensorRT."""
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT)
    monkeypatch.setattr(engine_runtime, "check_engine", lambda manifest: None)
    cuda = stand_in(monkeypatch)
    yield cuda
    assert cuda.faults == []


@pytest.fixture
def engine_file(tmp_path: Path) -> Path:
    """A file that the stand-in for TensorRT reads, with masks of one or two frames."""
    written = export_onnx(folded_model(), tmp_path / "model.onnx", output="mask", batch=(1, 1, 2))
    path = tmp_path / "a.engine"
    path.write_bytes(b"good")
    write_manifest(dataclasses.replace(written, kind="tensorrt", file=path.name, sha256=sha256(b"good")), path)
    return path


def test_an_engine_is_called_as_documented(cuda: CudaStandIn, engine_file: Path) -> None:
    opened = Session.open(engine_file)
    frames = some_frames(folded_model(), 2)
    results = [opened(some) for some in (frames, frames[:1], frames.as_subclass(OnGpu), frames.transpose(2, 3))]
    torch.cuda.current_stream().synchronize()
    for got, some in zip(results, (frames, frames[:1], frames, frames.transpose(2, 3)), strict=True):
        assert torch.equal(got, 255 - some[:, 0])


def test_an_engine_with_distances(cuda: CudaStandIn, engine_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come from the same run as the result, and every output has an address, asked for or not."""
    manifest = dataclasses.replace(read_manifest(f"{engine_file}.json"), familiarity=DistanceScale(9.0, (1.0, 2.0)))
    write_manifest(manifest, engine_file)
    with pytest.raises(InputError, match="its manifest says"):  # this engine gives none
        Session.open(engine_file)
    monkeypatch.setattr(FakeEngine, "shapes", {**FakeEngine.shapes, "distance": (-1,)})
    opened = Session.open(engine_file)
    frames = some_frames(folded_model(), 2)
    results = [opened.with_distance(some) for some in (frames, frames[:1], frames.as_subclass(OnGpu))]
    result = opened(frames)
    torch.cuda.current_stream().synchronize()
    for (got, distances), some in zip(results, (frames, frames[:1], frames), strict=True):
        assert torch.equal(got, 255 - some[:, 0]) and torch.equal(distances, some[:, 0, 0, 0].float())
    assert torch.equal(result, 255 - frames[:, 0])


def test_engines_that_do_not_fit(cuda: CudaStandIn, engine_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest(f"{engine_file}.json")
    with pytest.raises(InputError, match="has no TensorRT plugin"):  # before the engine is read
        engine_runtime.EngineRuntime(b"broken", dataclasses.replace(manifest, plugin=True))
    with pytest.raises(InputError, match=r"tensorrt cannot read a\.engine"):
        engine_runtime.EngineRuntime(b"broken", manifest)
    for change in (
        {"output_name": "logits"},
        {"input_shape": ("batch", 1, 32, 32)},
        {"output_shape": ("batch", 8, 8)},
        {"output_type": "float32"},
    ):
        with pytest.raises(InputError, match="its manifest says"):
            engine_runtime.EngineRuntime(b"good", dataclasses.replace(manifest, **change))
    engine = engine_runtime.EngineRuntime(b"good", dataclasses.replace(manifest, batch=(1, 1, 4)))
    with pytest.raises(BackendError, match=r"tensorrt could not run a\.engine"):  # it was built for two frames
        engine(some_frames(folded_model(), 3))
    monkeypatch.setattr(FakeEngine, "memory", False)
    with pytest.raises(BackendError, match=r"tensorrt could not make ready to run a\.engine"):
        engine_runtime.EngineRuntime(b"good", manifest)


def test_frames_of_an_engine_may_be_refilled_at_once(cuda: CudaStandIn, engine_file: Path) -> None:
    opened, frames = Session.open(engine_file), some_frames(folded_model(), 8)
    buffer = torch.empty(1, *frames.shape[1:], dtype=torch.uint8, pin_memory=True)
    results = []
    for frame in frames:
        buffer.copy_(frame)
        results.append(opened(buffer))
        buffer.fill_(7)
    torch.cuda.current_stream().synchronize()
    assert torch.equal(torch.cat(results), 255 - frames[:, 0])


def test_an_engine_on_a_device_that_is_not_the_current_one(cuda: CudaStandIn, engine_file: Path) -> None:
    with torch.cuda.device(1):
        opened = Session.open(engine_file)
    frames = some_frames(folded_model(), 1)
    result = opened(frames)
    torch.cuda.current_stream(1).synchronize()
    assert torch.equal(result, 255 - frames[:, 0])


def test_an_engine_goes_after_its_last_call(cuda: CudaStandIn, engine_file: Path) -> None:
    opened, frames = Session.open(engine_file), some_frames(folded_model(), 1)
    result = opened(frames)
    del opened
    torch.cuda.synchronize()
    assert torch.equal(result, 255 - frames[:, 0])


@pytest.mark.parametrize("runtime", ["tensorrt", "openvino", "onnxruntime", "cpu"])
def test_threads_share_a_session(runtime: str, request: pytest.FixtureRequest) -> None:
    """For ``cuda_graph`` see tests/deploy/test_graph.py."""
    model, repeats = folded_model(), {"tensorrt": 1, "openvino": 10, "onnxruntime": 10, "cpu": 2}[runtime]
    if runtime == "tensorrt":
        cuda = request.getfixturevalue("cuda")
        opened, wait = Session.open(request.getfixturevalue("engine_file")), cuda.synchronize
    else:
        opened, wait = Session.open(model, runtime=runtime, batch=(1, 1, 2)), lambda: None
    calls = [torch.split(some_frames(model, 30).roll(n, 0), 1 + n % 2) for n in range(4)]

    def run(frames: tuple[Tensor, ...]) -> list[Tensor]:
        return [opened(one) for one in frames]

    expected = [run(frames) for frames in calls]
    wait()
    together = threading.Barrier(len(calls))

    def in_a_thread(frames: tuple[Tensor, ...]) -> list[Tensor]:
        together.wait()
        if runtime != "tensorrt":
            return [result for _ in range(repeats) for result in run(frames)]
        with torch.cuda.stream(torch.cuda.Stream()):
            return run(frames)

    with ThreadPoolExecutor(len(calls)) as pool:
        got = list(pool.map(in_a_thread, calls))
    wait()
    for results, right in zip(got, expected, strict=True):
        wrong = sum(not torch.equal(result, right[i % len(right)]) for i, result in enumerate(results))
        assert wrong == 0, f"{wrong} of {len(results)} results are wrong"


@pytest.mark.parametrize("runtime", ["tensorrt", "openvino", "onnxruntime", "cpu"])
def test_a_session_of_inference_mode_serves_other_modes(runtime: str, request: pytest.FixtureRequest) -> None:
    file = folded_model()
    if runtime == "tensorrt":
        request.getfixturevalue("cuda")
        file = request.getfixturevalue("engine_file")
    with torch.inference_mode():
        opened = Session.open(file, runtime=runtime)
        opened(some_frames(folded_model(), 1))
    result = opened(some_frames(folded_model(), 1))
    result.zero_()  # refused where inference mode made it


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
