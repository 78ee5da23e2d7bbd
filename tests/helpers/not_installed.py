"""A Python in which some packages are not installed. It imports none of them, so programs can begin with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from helpers import ROOT

TORCH = ("torch", "torchvision", "open_clip", "timm", "monai", "safetensors")
"""Torch, and what is not there without it."""


class _Without:
    """A finder that finds what another one does, but for some packages."""

    def __init__(self, finder: Any, packages: frozenset[str]) -> None:
        self._finder, self._packages = finder, packages

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        found: ModuleSpec | None = None
        if name.split(".")[0] not in self._packages:
            found = self._finder.find_spec(name, path, target)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


def hide(packages: Iterable[str]) -> None:
    """Let Python find no module of the packages from now on, as where they are not installed."""
    sys.meta_path[:] = [_Without(finder, frozenset(packages)) for finder in sys.meta_path]


def run(program: str, *arguments: object, hidden: Iterable[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run a program of Python in one thread, with ``arguments`` in ``sys.argv[1:]`` and without the hidden packages."""
    start = f"from helpers.not_installed import hide; hide({tuple(hidden)!r})\n"
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path, str(ROOT)])
    return subprocess.run(
        [sys.executable, "-c", start + program, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"},
    )
