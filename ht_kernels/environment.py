"""A description of the machine and the installed packages, for ``ht-kernels info``, reports and bug reports.

Torch is not needed; ``seen_by_torch.py`` has what it tells.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import ht_kernels
from ht_kernels import threads

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
    """Everything that this file finds out, as plain values that JSON can hold.

    Where torch is not loaded there are no ``backends``, no GPU is listed, and ``torch_isa`` is None.
    """
    by_torch: dict[str, Any] = {"torch_isa": None, "gpus": [], "backends": {}}
    if sys.modules.get("torch") is not None:
        from ht_kernels import seen_by_torch

        by_torch = {
            "torch_isa": seen_by_torch.isa(),
            "gpus": seen_by_torch.gpus(),
            "backends": seen_by_torch.backends(),
        }
    return {
        "ht_kernels": ht_kernels.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": {**cpu(), "torch_isa": by_torch["torch_isa"]},
        "gpus": by_torch["gpus"],
        "compiled_core": compiled_core(),
        "backends": by_torch["backends"],
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
    """The CPU's model and number of logical cores, and the number of threads that kernels and runtimes take."""
    return {"model": _cpu_model(), "cores": os.cpu_count(), "threads": threads.usual()}


def compiled_core() -> dict[str, Any]:
    """How ``ht_kernels._C`` was built, and the instruction set it uses; ``{"error": reason}`` if it does not load."""
    try:
        importlib.import_module("ht_kernels.compiled")  # loads the OpenMP library that the module needs
        module = importlib.import_module("ht_kernels._C")
    except ImportError as error:
        return {"error": str(error)}
    info: dict[str, Any] = module.build_info()
    return {**info, "isa_in_use": module.cpu_isa()}


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
