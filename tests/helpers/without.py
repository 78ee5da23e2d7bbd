"""Programs in a Python of their own that does not find some packages, as if they were not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TORCH = ("torch", "torchvision", "open_clip", "timm", "monai", "safetensors", "onnx")
"""Torch, and what is not there without it."""

_HIDE = """
import importlib.machinery, sys
class Bare(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {packages!r} else super().find_spec(name, path, target)
sys.meta_path[:] = [Bare if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
"""


def run(
    program: str, *words: object, packages: Sequence[str] = TORCH, folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run a program in ``folder``, which must not be the checkout, and return what it says; ``words`` are its argv."""
    code = _HIDE.format(packages=tuple(packages)) + program
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HT_KERNELS_BACKEND": ""},
    )
