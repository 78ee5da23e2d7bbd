"""The compiled module ``ht_kernels._C``, or the reason why it cannot be imported. Torch is not needed for it.

The module and torch need an OpenMP library of the same name, ``libgomp.so.1``. Whichever is imported first brings it,
and the other one shares it and its threads.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

__all__ = ["missing", "module"]


def _bring_openmp() -> None:
    """Load the OpenMP library that an installed torch brings, for a system that has none. Torch is not imported."""
    found = importlib.util.find_spec("torch")
    for folder in [] if found is None else found.submodule_search_locations or []:
        library = Path(folder) / "lib" / "libgomp.so.1"
        if library.exists():
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


missing = ""
"""The reason why the compiled module cannot be used; empty if it can."""
try:
    _bring_openmp()
    from ht_kernels import _C as module
except (ImportError, OSError) as error:
    missing = f"the compiled core ht_kernels._C could not be imported ({error})"
