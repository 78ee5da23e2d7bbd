"""Engines for TensorRT and for TensorRT for RTX, built from an exported ONNX file.

TensorRT for RTX can build for GPUs that this machine does not have; TensorRT builds for the GPU of this machine. The
same code serves TensorRT 10, TensorRT 11 and TensorRT for RTX, because all of them accept strongly typed networks,
which take each precision from the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ht_kernels
from ht_kernels.errors import InputError
from ht_kernels.files import write_whole
from ht_kernels.packages import import_package

from .gpu import gpu_target
from .manifest import Manifest, manifest_of, sha256, write_manifest
from .places import check_place

RUNTIMES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}
"""The name of each runtime in messages, by the name of its Python package."""


def build_engine(
    onnx: str | Path,
    path: str | Path,
    *,
    runtime: str = "tensorrt_rtx",
    targets: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> Manifest:
    """Write an engine, and its manifest beside it.

    Args:
        onnx: a file written by :func:`ht_kernels.deploy.export_onnx`. Its manifest, which holds the range of batch
            sizes, must lie beside it.
        path: the engine to write; the file appears complete or not at all. The manifest is ``path`` plus ``.json``.
        runtime: ``tensorrt`` builds for the GPU of this machine, ``tensorrt_rtx`` for the ``targets``.
        targets: compute capabilities, such as ``["sm_86", "sm_89"]``. ``tensorrt_rtx`` needs at least one;
            ``tensorrt`` accepts none.
        progress: called with the name of each phase when it starts, from any thread.

    Returns:
        The manifest of the engine.

    Raises:
        InputError: the runtime is not installed, does not know a target or refuses the graph; the graph needs the
            plugin, which this build lacks; or a file has a wrong name, does not fit its manifest or cannot be written.
        BackendError: ``runtime`` is ``tensorrt`` and there is no GPU.
    """
    onnx, path = Path(onnx), Path(path)
    if runtime not in RUNTIMES:
        raise InputError(f"runtime must be one of {', '.join(RUNTIMES)}, got {runtime!r}")
    if path.suffix == ".onnx":
        raise InputError(f"the engine {path} must not end in .onnx; NAME.engine is usual")
    check_place(path)
    trt = import_runtime(runtime)
    name = f"{RUNTIMES[runtime]} {trt.__version__}"
    if runtime == "tensorrt" and targets:
        raise InputError(f"TensorRT builds for the GPU that is here, got targets {', '.join(targets)}: leave them out")
    capabilities = [_capability(trt, target) for target in targets]
    if runtime == "tensorrt_rtx" and not capabilities:
        raise InputError(f"an engine needs at least one target, such as sm_86; there are {_known(trt)}")
    manifest = manifest_of(onnx)
    if manifest.plugin:
        load_plugin(trt, runtime)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # absent in TensorRT 11
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx.read_bytes()):
        reason = str(parser.get_error(0)) if parser.num_errors else "no reason given"
        raise InputError(f"{name} refuses {onnx}: {reason}")
    config = builder.create_builder_config()
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            config.set_compute_capability(capability, index)
    if manifest.batch[0] != manifest.batch[2]:
        profile = builder.create_optimization_profile()
        shapes = [(count, *manifest.input_shape[1:]) for count in manifest.batch]
        profile.set_shape(manifest.input_name, *shapes)
        config.add_optimization_profile(profile)
    if progress is not None:
        monitor = _monitor(trt, progress)  # must outlive the build
        config.progress_monitor = monitor
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise InputError(f"{name} could not build an engine of {onnx}: see its messages")
    content = bytes(engine)
    built = replace(
        manifest,
        kind=runtime,
        file=path.name,
        sha256=sha256(content),
        targets=tuple(targets) or (gpu_target(),),
        versions={**manifest.versions, runtime: trt.__version__},
    )
    write_whole(path, content, "the engine")
    write_manifest(built, path)
    return built


def import_runtime(runtime: str) -> Any:
    """Import the Python package of a runtime, and return it.

    Raises:
        InputError: the package cannot be imported.
    """
    return import_package(runtime, f"engines need {RUNTIMES[runtime]}", runtime.replace("_", "-"))


def plugin_library() -> Path:
    """The path where a build with TensorRT's SDK puts the plugin."""
    return Path(ht_kernels.__file__).parent / "libht_kernels_tensorrt.so"


def load_plugin(trt: Any, runtime: str) -> None:
    """Register the plugin with TensorRT. Call it before reading a graph or an engine that needs the plugin.

    Raises:
        InputError: the runtime supports no plugins, or this build has no plugin.
    """
    if runtime == "tensorrt_rtx":
        raise InputError("TensorRT for RTX has no plugins: export the model without the plugin, or use TensorRT")
    if not plugin_library().is_file():
        raise InputError(
            "this build has no TensorRT plugin: build ht_kernels with CUDA and TENSORRT_ROOT, the folder of "
            "TensorRT's SDK, or export the model without the plugin"
        )
    trt.get_plugin_registry().load_library(str(plugin_library()))


def _capability(trt: Any, target: str) -> Any:
    name = target.upper().replace("_", "")
    if not target.startswith("sm_") or name not in trt.ComputeCapability.__members__:
        raise InputError(f"TensorRT for RTX {trt.__version__} has no target {target!r}, only {_known(trt)}")
    return trt.ComputeCapability.__members__[name]


def _known(trt: Any) -> str:
    numbers = sorted(int(name[2:]) for name in trt.ComputeCapability.__members__ if name.startswith("SM"))
    return ", ".join(f"sm_{number}" for number in numbers)


def _monitor(trt: Any, progress: Callable[[str], None]) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            progress(name)

        def phase_finish(self, name: str) -> None: ...

        def step_complete(self, name: str, step: int) -> bool:
            return True  # continue the build

    return Monitor()
