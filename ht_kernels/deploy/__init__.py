"""Deployment: the folded model, its CUDA graphs, checked exports to ONNX, OpenVINO and TensorRT, and sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ht_kernels.lazy import lazily

if TYPE_CHECKING:
    from .adapter_file import save_adapters
    from .engine import build_engine
    from .float8 import quantize_fp8
    from .folded import FoldedHTCLIP, fold
    from .gate import check_folded, check_onnx, check_session
    from .graph import GraphRunner
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
    "check_folded",
    "check_onnx",
    "check_session",
    "export_onnx",
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
        "export_onnx": ".onnx",
        "fold": ".folded",
        "quantize_fp8": ".float8",
        "read_manifest": ".manifest",
        "save_adapters": ".adapter_file",
    },
)
