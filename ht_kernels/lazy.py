"""Packages whose parts are imported at their first use, so that a command line can answer before torch is loaded."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ht_kernels.packages import what_is_missing


class _Lacking:
    """A finder that says to ``from package import name`` which package is missing.

    ``hasattr`` has to give False for such a name, so asking for it raises AttributeError, whose sentence the statement
    drops. It then asks finders for a submodule of that name, and passes on what they raise.
    """

    def __init__(self) -> None:
        self.errors: dict[str, ModuleNotFoundError] = {}

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Find nothing. Raises the error that was noted for a name, unless the package has been installed since."""
        error = self.errors.pop(name, None)
        if error is not None and what_is_missing(error) is not None:
            raise error


_lacking = _Lacking()
sys.meta_path.insert(0, _lacking)  # before those that would find a submodule and let it raise an error without advice


def lazily(
    package: str, places: Mapping[str, str], submodules: Iterable[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The functions ``__getattr__`` and ``__dir__`` of a package (PEP 562).

    Args:
        package: its ``__name__``.
        places: the public names of the package, each with the module that defines it, such as ``.deploy.folded``.
        submodules: those that ``dir`` shows. Every submodule is imported when it is first asked for.
    """
    shown = sorted({*places, *submodules})

    def get(name: str) -> Any:
        whole = f"{package}.{name}"
        _lacking.errors.pop(whole, None)
        try:
            if name in places:
                return getattr(importlib.import_module(places[name], package), name)
            if not name.startswith("_") and importlib.util.find_spec(whole) is not None:
                return importlib.import_module(whole)
        except ModuleNotFoundError as error:
            advice = what_is_missing(error)
            if advice is None:
                raise
            _lacking.errors[whole] = ModuleNotFoundError(advice, name=error.name)
            raise AttributeError(advice) from error
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get, lambda: shown
