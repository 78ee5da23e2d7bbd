"""The NVIDIA GPU that is here, asked without importing torch."""

from __future__ import annotations

import ctypes
import sys

from ht_kernels.errors import BackendError

_MAJOR, _MINOR = 75, 76  # of CUdevice_attribute, in cuda.h


def capability() -> tuple[int, int] | None:
    """The compute capability (major, minor) of the GPU, or None where there is none.

    Where torch is loaded, it is asked about its current GPU, and elsewhere the driver about the first one.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return _of_driver()
    return torch.cuda.get_device_capability() if torch.cuda.is_available() else None


def gpu_target() -> str:
    """The compute capability of the GPU as a target of engines, such as ``sm_86``.

    Raises:
        BackendError: there is no GPU.
    """
    found = capability()
    if found is None:
        raise BackendError(
            "there is no NVIDIA GPU that can be used: take a machine with one, its driver and, if torch is installed, "
            "a torch for CUDA, or a runtime that needs none, which are openvino, onnxruntime and cpu"
        )
    return "sm_{}{}".format(*found)


def _of_driver() -> tuple[int, int] | None:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), 0)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    )
    return None if failed else (major.value, minor.value)
