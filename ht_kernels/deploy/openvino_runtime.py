"""OpenVINO as a runtime of a session: an ONNX file or OpenVINO's own format (IR) on the CPU, an Intel GPU or an NPU.

No Intel GPU or NPU has run it yet.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ht_kernels import environment, threads
from ht_kernels.errors import BackendError, InputError, reason
from ht_kernels.packages import import_package

from .cache import cached
from .manifest import Manifest, sha256
from .runtimes import Array, FileRuntime

DEVICES = ("CPU", "GPU", "NPU")
"""The devices of OpenVINO that a session runs on. GPU means Intel's."""

_PLAIN_NAMES = {"CPU": "cpu", "GPU": "intel gpu", "NPU": "npu"}
_CAPABILITIES = {"fp32": "FP32", "fp16": "FP16", "bf16": "BF16", "int8": "INT8"}
_TYPES = {"u8": "uint8", "f32": "float32"}
_log = logging.getLogger("ht_kernels")


def import_openvino() -> Any:
    """Import OpenVINO and return it.

    Raises:
        InputError: it is not installed or cannot be imported.
    """
    return import_package("openvino", "this needs OpenVINO", "openvino")


def _core() -> Any:
    """OpenVINO's core, which knows the devices.

    Raises:
        InputError: OpenVINO cannot be imported.
        BackendError: it is installed in part, or a driver of it is.
    """
    core = import_openvino().Core
    try:
        return core()
    except Exception as error:  # OpenVINO's exceptions have no narrower common class
        raise BackendError(f"OpenVINO cannot start ({reason(error)}): install it again") from error


def devices() -> dict[str, str]:
    """The devices that OpenVINO finds here: their full names, by names such as ``CPU``, ``GPU.0`` and ``NPU``.

    A device that does not tell its name, because its driver is installed in part, has the error's text instead.

    Raises:
        InputError: OpenVINO cannot be imported.
        RuntimeError: OpenVINO cannot start or list its devices.
    """
    core = _core()
    return {name: _full_name(core, name) for name in core.available_devices}


def _full_name(core: Any, device: str) -> str:
    try:
        return str(core.get_property(device, "FULL_DEVICE_NAME"))
    except RuntimeError as error:
        return f"not usable: {reason(error)}"


def check_device(device: str, precision: str) -> None:
    """Check whether OpenVINO finds a device here, and the device computes in a precision.

    Raises:
        InputError: OpenVINO is not installed, or ``device`` is not one of :data:`DEVICES`.
        BackendError: there is no such device, or it does not compute in ``precision``.
    """
    if device not in DEVICES:
        raise InputError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    core = _core()
    found = core.available_devices
    if not any(name.split(".")[0] == device for name in found):  # of two GPUs the names are GPU.0 and GPU.1
        raise BackendError(
            f"OpenVINO finds no {device} here: it finds {', '.join(found) or 'no device at all'}. Name one of these, "
            f"or, if the machine has an Intel {device}, install its driver"
        )
    capabilities = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    if _CAPABILITIES[precision] not in capabilities:
        able = " and ".join(name for name, capability in _CAPABILITIES.items() if capability in capabilities)
        raise BackendError(f"this {device} does not compute in {precision}: its precisions are {able}")


class OpenVinoRuntime(FileRuntime):
    """A model in OpenVINO, compiled for the shortest time of a single call.

    The graph alone says what is in 16 bits or in int8: left to itself, OpenVINO would compute all of it in bfloat16
    where the CPU can. A CPU that lacks the 16-bit type of a graph computes in float32, from the rounded weights.
    Threads may share the runtime; one call runs at a time, because it takes all threads that it may.

    Args:
        contents: the content of an ONNX file, or of the two files of an IR, graph and weights.
        manifest: that of the file.
        device: one of :data:`DEVICES`.

    Raises:
        InputError: OpenVINO is not installed or cannot read the file, or the file does not fit its manifest.
        BackendError: there is no such device, or it cannot run the model.
    """

    def __init__(self, contents: Sequence[bytes], manifest: Manifest, device: str = "CPU") -> None:
        check_device(device, manifest.precision if device == "NPU" else "fp32")
        low, _, high = manifest.batch
        if device == "NPU" and low != high:
            raise BackendError(
                f"the NPU takes one batch size, and {manifest.file} is for {low} to {high} frames: export it for one"
            )
        core = _core()
        try:
            model = core.read_model(*contents)
        except Exception as error:  # OpenVINO's exceptions have no narrower common class
            raise InputError(f"OpenVINO cannot read {manifest.file}: {reason(error)}") from error
        _check_tensors(model, manifest)
        try:
            self._request = _compile(core, model, manifest, device).create_infer_request()
        except RuntimeError as error:
            raise BackendError(f"OpenVINO cannot run {manifest.file} on {device}: {reason(error)}") from error
        self.device = _PLAIN_NAMES[device]
        self._lock = threading.Lock()

    def _run(self, frames: Array) -> list[Array]:
        with self._lock:
            outputs = self._request.infer({0: frames}, share_inputs=True)  # outputs are copies
        return list(outputs.to_tuple())


def _check_tensors(model: Any, manifest: Manifest) -> None:
    """Raise InputError if a graph takes or gives something else than its manifest says."""
    declared = []
    for port in (*model.inputs, *model.outputs):
        kind = port.element_type.get_type_name()
        shape = tuple("batch" if size.is_dynamic else size.get_length() for size in port.partial_shape)
        declared.append((port.any_name, shape, _TYPES.get(kind, kind)))
    expected = [(manifest.input_name, manifest.input_shape, manifest.input_type), *manifest.outputs]
    if declared != expected:
        raise InputError(f"{manifest.file} takes and gives {declared}, and its manifest says {expected}")


def _compile(core: Any, model: Any, manifest: Manifest, device: str) -> Any:
    """The model compiled for a device. For a GPU or an NPU it is taken from the user's cache, or put there.

    A CPU compiles a model in less time than it takes to read a compiled one.
    """
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if device != "NPU":  # it computes in 16 bits and has no such option
        options["INFERENCE_PRECISION_HINT"] = "f32"
    if device == "CPU":
        # Threads bound to cores would wait there for other programs while another core is free.
        options |= {"INFERENCE_NUM_THREADS": threads.usual(), "ENABLE_CPU_PINNING": False}
        return core.compile_model(model, device, options)
    return _cached(core, model, manifest, device, options)


def _cached(core: Any, model: Any, manifest: Manifest, device: str, options: dict[str, Any]) -> Any:
    """The compiled model from the user's cache. If the cache cannot be used, it is compiled, and a warning says why."""
    version = environment.version("openvino")
    name = core.get_property(device, "FULL_DEVICE_NAME")
    key = {**asdict(manifest), "file": "", "device": device, "device_name": name, "openvino": version}

    def make(folder: Path) -> None:
        _log.warning("session: OpenVINO compiles the model for %s, once", name)
        blob = core.compile_model(model, device, options).export_model().getvalue()
        (folder / "model.blob").write_bytes(blob)
        (folder / "sha256").write_bytes(sha256(blob).encode())

    def good(folder: Path) -> bool:
        try:
            return sha256((folder / "model.blob").read_bytes()).encode() == (folder / "sha256").read_bytes()
        except OSError:
            return False

    try:
        blob = (cached(key, make, good) / "model.blob").read_bytes()
        return core.import_model(blob, device, options)
    except (InputError, OSError, RuntimeError) as error:
        _log.warning("session: OpenVINO compiles the model for %s, as its cache cannot be used: %s", name, error)
        return core.compile_model(model, device, options)
