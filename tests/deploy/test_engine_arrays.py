"""Engines without torch: cuda-python's memory, arrays in and arrays out. No GPU is needed; CUDA is stood in for."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from helpers.cuda_python_stand_in import FakeCuda
from helpers.cuda_stand_in import OnGpu
from helpers.exports import folded_model, some_frames
from helpers.tensorrt_stand_in import FakeEngine, FakeTensorRT
from ht_kernels.deploy import Session, engine_arrays, engine_runtime, export_onnx, gpu, read_manifest
from ht_kernels.deploy.manifest import sha256, write_manifest
from ht_kernels.distance_scale import DistanceScale
from ht_kernels.errors import BackendError, InputError


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """The stand-in, with TensorRT, as if torch were not installed."""
    cuda = FakeCuda()
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT)
    monkeypatch.setattr(engine_runtime, "check_engine", lambda manifest: None)
    monkeypatch.setattr(engine_runtime, "installed", lambda package: package != "torch")
    monkeypatch.setattr(engine_arrays, "import_package", lambda module, needs, install: cuda)
    monkeypatch.setattr(OnGpu, "cuda", cuda, raising=False)  # where the engine finds its stream
    yield cuda
    gc.collect()
    assert cuda.faults == [] and cuda.memory == {} and cuda.streams == []


@pytest.fixture
def engine_file(tmp_path: Path) -> Path:
    """A file that the stand-in for TensorRT reads, with masks of one or two frames, and distances."""
    written = export_onnx(folded_model(), tmp_path / "model.onnx", output="mask", batch=(1, 1, 2))
    path = tmp_path / "a.engine"
    path.write_bytes(b"good")
    changed = dataclasses.replace(
        written,
        kind="tensorrt",
        file=path.name,
        sha256=sha256(b"good"),
        familiarity=DistanceScale(9.0, (1.0, 2.0)),
    )
    write_manifest(changed, path)
    return path


@pytest.fixture
def distances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeEngine, "shapes", {**FakeEngine.shapes, "distance": (-1,)})


@pytest.mark.usefixtures("distances")
def test_arrays_and_tensors(cuda: FakeCuda, engine_file: Path) -> None:
    opened = Session.open(engine_file)
    assert (opened.runtime, opened.device) == ("tensorrt", "cuda:0")
    tensors = some_frames(folded_model(), 2)
    frames = tensors.numpy()
    results = [opened.with_distance(some) for some in (frames, frames[:1], frames.swapaxes(2, 3))]
    for (mask, far), some in zip(results, (frames, frames[:1], frames.swapaxes(2, 3)), strict=True):
        assert isinstance(mask, np.ndarray) and mask.dtype == np.uint8 and far.dtype == np.float32
        assert np.array_equal(mask, 255 - some[:, 0]) and np.array_equal(far, some[:, 0, 0, 0])
    assert np.array_equal(opened(tensors).numpy(), 255 - frames[:, 0])


@pytest.mark.usefixtures("distances")
def test_threads_share_an_engine_and_each_sets_its_device(cuda: FakeCuda, engine_file: Path) -> None:
    cuda.cudaSetDevice(1)
    opened = Session.open(engine_file)
    assert opened.device == "cuda:1"
    frames = some_frames(folded_model(), 24).numpy()
    together = threading.Barrier(4)

    def run(part: np.ndarray[Any, Any]) -> bool:
        together.wait()
        right = all(np.array_equal(opened(one[None]), 255 - one) for one in part)
        return right and cuda.cudaGetDevice()[1] == 1

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, np.split(frames, 4)))


@pytest.mark.usefixtures("distances")
def test_what_cuda_and_tensorrt_refuse(cuda: FakeCuda, engine_file: Path) -> None:
    manifest = read_manifest(f"{engine_file}.json")
    engine = engine_runtime.EngineRuntime(b"good", dataclasses.replace(manifest, batch=(1, 1, 4)))
    with pytest.raises(BackendError, match=r"tensorrt could not run a\.engine"):  # it was built for two frames
        engine(some_frames(folded_model(), 3).numpy())
    del engine
    cuda.free_bytes = 5000
    with pytest.raises(BackendError, match="CUDA refuses cudaMalloc: out of memory"):
        Session.open(engine_file)


def test_without_cuda_python(engine_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "cuda"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cuda", None)
    with pytest.raises(InputError, match=r"needs cuda-python, which is .*pip install .*cuda-python"):
        engine_arrays.ArrayMemory(("frames", (1, 1, 8, 8), "uint8"), [])


def test_the_stand_in_has_the_functions_of_cuda_python() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    assert [name for name in dir(FakeCuda) if name.startswith("cuda") and not hasattr(runtime, name)] == []


class FakeDriver:
    """``libcuda.so.1`` of a machine with an Orin, or with a driver and no GPU."""

    def __init__(self, devices: int) -> None:
        self.devices = devices

    def cuInit(self, flags: int) -> int:
        return 0 if self.devices else 100

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:
        device._obj.value = 7
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: ctypes.c_int) -> int:
        assert device.value == 7
        value._obj.value = {75: 8, 76: 7}[attribute]
        return 0


@pytest.mark.parametrize(("devices", "expected"), [(1, (8, 7)), (0, None)])
def test_the_driver_is_asked_where_torch_is_not_loaded(
    devices: int, expected: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(
        gpu, "ctypes", SimpleNamespace(CDLL=lambda name: FakeDriver(devices), c_int=ctypes.c_int, byref=ctypes.byref)
    )
    assert gpu.capability() == expected
    if expected:
        assert gpu.gpu_target() == "sm_87"
    else:
        with pytest.raises(BackendError, match="there is no NVIDIA GPU that can be used"):
            gpu.gpu_target()
