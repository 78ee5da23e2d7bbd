"""Which runtimes are on this machine, for ``ht-kernels info``."""

from __future__ import annotations

from ht_kernels.environment import version
from ht_kernels.errors import InputError, reason

from .openvino_runtime import devices
from .runtimes import import_onnxruntime, why_not_here
from .session import RUNTIMES


def runtimes() -> dict[str, str | None]:
    """For each runtime of a session, best first: None if exported files or checkpoints run on it here, else why not."""
    reasons = {name: why_not_here(name, folded=False) for name in RUNTIMES}
    if reasons["tensorrt"] is None and version("tensorrt") is None and version("tensorrt_rtx") is None:
        reasons["tensorrt"] = "TensorRT for RTX is not installed: pip install tensorrt-rtx"
    for name, ask in (("openvino", devices), ("onnxruntime", import_onnxruntime)):
        if reasons[name] is None:
            try:
                ask()
            except (InputError, RuntimeError) as error:
                reasons[name] = reason(error)
    return reasons


def runtimes_of_checkpoints() -> dict[str, str | None]:
    """As :func:`runtimes`, for checkpoints alone."""
    return {name: found or why_not_here(name, folded=True) for name, found in runtimes().items()}


def openvino_devices() -> dict[str, str]:
    """What :func:`ht_kernels.deploy.openvino_runtime.devices` returns; empty if OpenVINO cannot be asked."""
    try:
        return devices()
    except (InputError, RuntimeError):
        return {}
