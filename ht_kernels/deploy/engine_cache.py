"""Engines of ONNX files for the GPU that is here, built once and kept in the user's cache."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from ht_kernels import environment
from ht_kernels.errors import InputError

from .cache import cached
from .engine import build_engine
from .engine_runtime import EngineRuntime, runs_here
from .gpu import gpu_target
from .manifest import Manifest, read_described, read_manifest

_log = logging.getLogger("ht_kernels")


def cached_engine(onnx: Path, manifest: Manifest, progress: Callable[[str], None] | None) -> EngineRuntime:
    """The engine for an ONNX file and this GPU. It is taken from the cache, or built and put there."""
    target = gpu_target()
    version = environment.version("tensorrt_rtx")
    key = {**asdict(manifest), "file": "", "targets": [target], "tensorrt_rtx": version}

    def make(folder: Path) -> None:
        _log.warning("session: building an engine for %s, once", target)
        build_engine(onnx, folder / "model.engine", targets=[target], progress=progress)

    def good(folder: Path) -> bool:
        try:
            return runs_here(read_manifest(folder / "model.engine.json"))
        except InputError:
            return False

    folder = cached(key, make, good)
    built = read_manifest(folder / "model.engine.json")
    return EngineRuntime(read_described(folder / "model.engine", built)[0], built)
