"""Packages that need not be installed, imported where they are needed."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from .errors import InputError, reason

WITHOUT_TORCH = (
    "this needs torch, which is not installed: pip install ht-kernels brings it. Without torch, exported files run, by "
    "predict, stream and sessions: export a checkpoint with ht-kernels export on a machine that has torch"
)
"""What to tell a user who asks for something that needs torch where there is none."""

_PIP_NAMES = {"PIL": "pillow", "yaml": "pyyaml"}
"""What pip calls packages that are imported by another name."""

_BESIDE_TORCH = ("torch", "torchvision", "safetensors", "monai")


def installed(package: str) -> bool:
    """Whether a package can be found. It is not imported, only those around it."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # one around it is missing
        return False


def what_is_missing(error: ModuleNotFoundError) -> str | None:
    """What to tell a user whose program ended at a package that is not installed; None where the error is another."""
    if error.name in _BESIDE_TORCH and not installed("torch"):
        return WITHOUT_TORCH
    package = (error.name or "").partition(".")[0]
    if package in ("", "ht_kernels") or installed(package):
        return None
    pip = _PIP_NAMES.get(package, package)
    return f"this needs {pip}, which is not installed: pip install {pip}"


def import_package(module: str, needs: str, install: str) -> Any:
    """Import a module of an optional package, and return it.

    Args:
        module: its name, such as ``onnx`` or ``nncf.onnx``.
        needs: the start of the error's sentence, such as "the export needs onnx".
        install: what pip is to install.

    Raises:
        InputError: the package is not installed, or cannot be imported. A library that it loads may be missing or
            broken, and then it raises whatever it likes.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:
        package = module.split(".")[0]
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            raise InputError(f"{needs}, which is not installed: pip install {install}") from error
        raise InputError(
            f"{needs}, which is installed and cannot be imported ({type(error).__name__}: {reason(error)}): mend what "
            f"that names, or pip install --force-reinstall {install}"
        ) from error


def need_torch(what: str | None = None) -> None:
    """Refuse work that needs torch where it is not installed; it is not imported.

    Args:
        what: what needs it, such as "a checkpoint"; None for a command, whose name the message has already.

    Raises:
        InputError: it is not installed.
    """
    if not installed("torch"):
        raise InputError(WITHOUT_TORCH if what is None else f"{what}: {WITHOUT_TORCH}")
