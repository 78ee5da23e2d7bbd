"""A description of the machine and the installed packages, for ``ht-kernels info``, reports and bug reports."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

import ht_kernels
from ht_kernels.backends import core, cuda
from ht_kernels.backends.call import Case
from ht_kernels.ops.dispatch import BACKENDS

PACKAGES = (
    "torch",
    "torchvision",
    "triton",
    "numpy",
    "open_clip_torch",
    "timm",
    "safetensors",
    "av",
    "pydicom",
    "pillow",
    "rich",
    "matplotlib",
    "monai",
    "peft",
    "accelerate",
    "onnx",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt_rtx",
)


_FOR_CUDA = {"tensorrt": ("_cu12", "_cu13"), "tensorrt_rtx": ("_cu12", "_cu13")}
"""The endings of distributions that hold the package of that name for one version of CUDA."""


def describe() -> dict[str, Any]:
    """Everything that this file finds out, as plain values that JSON can hold."""
    return {
        "ht_kernels": ht_kernels.__version__,
        "location": str(Path(ht_kernels.__file__).parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu(),
        "gpus": gpus(),
        "compiled_core": compiled_core(),
        "backends": backends(),
        "packages": {name: version(name) for name in PACKAGES},
        "missing_extras": missing_extras(),
        "environment": {
            name: value for name, value in sorted(os.environ.items()) if re.match("HT_KERNELS_|G?OMP_|KMP_", name)
        },
    }


def version(package: str) -> str | None:
    """The installed version of a distribution, or of one of it for a CUDA version; None if it is not installed."""
    for name in (package, *(package + ending for ending in _FOR_CUDA.get(package, ()))):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def commit() -> str | None:
    """The commit of the source tree, with ``-dirty`` if files were changed; None if the package runs from elsewhere."""
    source = Path(__file__).resolve().parents[1]
    if not (source / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(source), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def cpu() -> dict[str, Any]:
    """The CPU's model and number of logical cores, and torch's number of threads and instruction set."""
    return {
        "model": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
    }


def gpus() -> list[dict[str, Any]]:
    """The name, compute capability and memory of each GPU that torch sees.

    ``without_cuda_kernels`` is the reason why the CUDA kernels do not run on the GPU, or None if they do.
    """
    if not torch.cuda.is_available():
        return []
    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    archs = [] if core.missing else core.module.build_info()["cuda_archs"]
    return [
        {
            "name": p.name,
            "capability": f"{p.major}.{p.minor}",
            "memory_gib": round(p.total_memory / 2**30, 1),
            "without_cuda_kernels": core.missing or cuda.architecture_reason(archs, (p.major, p.minor)),
        }
        for p in properties
    ]


def compiled_core() -> dict[str, Any]:
    """How ``ht_kernels._C`` was built, and the instruction set it uses; ``{"error": reason}`` if it does not load."""
    try:
        module = importlib.import_module("ht_kernels._C")
    except ImportError as error:
        return {"error": str(error)}
    info: dict[str, Any] = module.build_info()
    return {**info, "isa_in_use": module.cpu_isa()}


def backends() -> dict[str, str | None]:
    """For each backend, best first: None if it can run a float32 adapter here, else the reason why it cannot."""
    devices = [torch.device("cuda")] if torch.cuda.is_available() else []
    cases = [Case(device, torch.float32, 768, 64, (14, 14), 1, False) for device in [*devices, torch.device("cpu")]]
    reasons = {name: [backend.can_run(case) for case in cases] for name, backend in BACKENDS.items()}
    return {name: None if None in found else found[0] for name, found in reasons.items()}


def missing_extras() -> dict[str, list[str]] | None:
    """For each incomplete optional extra, the packages that are missing; None if ht-kernels itself is not installed."""
    try:
        requirements = importlib.metadata.requires("ht-kernels") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    missing: dict[str, list[str]] = {}
    for requirement in requirements:
        # An extra that combines other extras requires ht-kernels itself, so ht-kernels is skipped.
        match = re.match(r"([A-Za-z0-9._-]+).*;\s*extra == ['\"]([\w-]+)['\"]", requirement)
        if match and match[1] != "ht-kernels" and version(match[1]) is None:
            missing.setdefault(match[2], []).append(match[1])
    return missing


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1] if match else platform.machine()
