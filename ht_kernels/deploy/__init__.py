"""Deployment: the folded model, its CUDA graphs, checked exports to ONNX, OpenVINO and TensorRT, and sessions."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .folded import FoldedHTCLIP, fold
from .graph import GraphRunner

if TYPE_CHECKING:
    from .engine import build_engine
    from .gate import check_onnx, check_session
    from .manifest import read_manifest
    from .onnx import export_onnx
    from .openvino_file import build_ir
    from .session import Session

__all__ = [
    "FoldedHTCLIP",
    "GraphRunner",
    "Session",
    "build_engine",
    "build_ir",
    "check_onnx",
    "check_session",
    "export_onnx",
    "fold",
    "read_manifest",
]

_LAZY = {
    "Session": ".session",
    "build_engine": ".engine",
    "build_ir": ".openvino_file",
    "check_onnx": ".gate",
    "check_session": ".gate",
    "export_onnx": ".onnx",
    "read_manifest": ".manifest",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'ht_kernels.deploy' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
