"""Packages that need not be installed, imported where they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from .errors import InputError, reason


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
