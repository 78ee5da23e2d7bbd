"""Packages whose parts are imported at their first use, so that a command line can answer before torch is loaded."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from ht_kernels.packages import what_is_missing


def lazily(
    package: str, places: Mapping[str, str], submodules: Iterable[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The functions ``__getattr__`` and ``__dir__`` of a package (PEP 562).

    Args:
        package: its ``__name__``.
        places: the public names that modules of the package define, each with its module, such as ``.clip``.
        submodules: those that ``dir`` shows. Every submodule is imported when it is first asked for.
    """
    shown = sorted({*places, *submodules})

    def get(name: str) -> Any:
        if name in places:
            return getattr(_import(places[name], package), name)
        if not name.startswith("_") and importlib.util.find_spec(f"{package}.{name}") is not None:
            return _import(f".{name}", package)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get, lambda: shown


def _import(name: str, package: str) -> ModuleType:
    """Import a module. Where a package is missing that it needs, the error says what to install.

    It is an AttributeError, so that ``hasattr`` gives False; but for ``from ... import``, which would drop the
    sentence, a ModuleNotFoundError.
    """
    try:
        return importlib.import_module(name, package)
    except ModuleNotFoundError as error:
        missing = what_is_missing(error)
        if missing is None:
            raise
        if sys._getframe(2).f_globals.get("__name__") == "importlib._bootstrap":
            raise ModuleNotFoundError(missing, name=error.name) from error
        raise AttributeError(missing) from error
