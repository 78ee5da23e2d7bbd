"""What is installed and what the machine is: for ``ht-kernels info``, reports and bug reports."""

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
    "tensorrt",
    "tensorrt_rtx",
)


def describe() -> dict[str, Any]:
    """Everything below, as plain values that JSON can hold."""
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
            name: value for name, value in sorted(os.environ.items()) if re.match("HT_KERNELS_|OMP_|KMP_", name)
        },
    }


def version(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The source tree's commit, with ``-dirty`` for changed files; None when installed without one."""
    source = Path(__file__).resolve().parents[1]
    if not (source / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(source), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def cpu() -> dict[str, Any]:
    """Model, logical cores, torch's threads, and the instruction set torch uses."""
    return {
        "model": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
    }


def gpus() -> list[dict[str, Any]]:
    """Of each GPU that torch sees: name, compute capability, memory, and why the CUDA kernels were not built for it.

    ``without_cuda_kernels`` is None where they were.
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
    """How ``ht_kernels._C`` was built and its instruction set here; ``{"error": reason}`` where it does not load."""
    try:
        module = importlib.import_module("ht_kernels._C")
    except ImportError as error:
        return {"error": str(error)}
    info: dict[str, Any] = module.build_info()
    return {**info, "isa_in_use": module.cpu_isa()}


def backends() -> dict[str, str | None]:
    """For each backend, best first: None where it can run a float32 adapter here, else why not."""
    devices = [torch.device("cuda")] if torch.cuda.is_available() else []
    cases = [Case(device, torch.float32, 768, 64, (14, 14), 1, False) for device in [*devices, torch.device("cpu")]]
    reasons = {name: [backend.can_run(case) for case in cases] for name, backend in BACKENDS.items()}
    return {name: None if None in found else found[0] for name, found in reasons.items()}


def missing_extras() -> dict[str, list[str]] | None:
    """For each optional extra that is not complete, the packages it lacks; None when not installed as a package."""
    try:
        requirements = importlib.metadata.requires("ht-kernels") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    missing: dict[str, list[str]] = {}
    for requirement in requirements:
        # Extras made of other extras name this package itself.
        match = re.match(r"([A-Za-z0-9._-]+).*;\s*extra == ['\"]([\w-]+)['\"]", requirement)
        if match and match[1] != "ht-kernels" and version(match[1]) is None:
            missing.setdefault(match[2], []).append(match[1])
    return missing


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1] if match else platform.machine()
