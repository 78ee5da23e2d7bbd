"""Deployment: the folded model, its CUDA graphs, checked exports to other runtimes, and sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ht_kernels.lazy import lazily

if TYPE_CHECKING:
    from .adapter_file import save_adapters
    from .engine import build_engine
    from .float8 import quantize_fp8
    from .folded import FoldedHTCLIP, fold
    from .gate import check_folded, check_onnx, check_session, check_torchscript
    from .graph import GraphRunner
    from .manifest import read_manifest
    from .onnx import export_onnx
    from .openvino_file import build_ir
    from .session import Session
    from .torchscript import export_torchscript

__all__ = [
    "FoldedHTCLIP",
    "GraphRunner",
    "Session",
    "build_engine",
    "build_ir",
    "check_folded",
    "check_onnx",
    "check_session",
    "check_torchscript",
    "export_onnx",
    "export_torchscript",
    "fold",
    "quantize_fp8",
    "read_manifest",
    "save_adapters",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "FoldedHTCLIP": ".folded",
        "GraphRunner": ".graph",
        "Session": ".session",
        "build_engine": ".engine",
        "build_ir": ".openvino_file",
        "check_folded": ".gate",
        "check_onnx": ".gate",
        "check_session": ".gate",
        "check_torchscript": ".gate",
        "export_onnx": ".onnx",
        "export_torchscript": ".torchscript",
        "fold": ".folded",
        "quantize_fp8": ".float8",
        "read_manifest": ".manifest",
        "save_adapters": ".adapter_file",
    },
)
