"""Hybrid-tuning of CLIP for ultrasound, with fused kernels."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import functional
from .nn import HTAdapter
from .ops.dispatch import available_backends, set_backend

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from . import data, deploy, prediction, video
    from .clip import HTCLIP, accelerate, inject
    from .deploy import FoldedHTCLIP, Session
    from .prediction import Predictor

__version__ = "0.1.0"

__all__ = [
    "HTCLIP",
    "HTAdapter",
    "Predictor",
    "accelerate",
    "available_backends",
    "data",
    "deploy",
    "fold",
    "functional",
    "inject",
    "predict",
    "prediction",
    "set_backend",
    "video",
]

# These are imported at first use, because they need optional packages: open_clip, timm, Pillow or PyAV.
_LAZY = {"HTCLIP": ".clip", "accelerate": ".clip", "inject": ".clip", "Predictor": ".prediction"}
_LAZY |= dict.fromkeys(("data", "deploy", "prediction", "video"), "")


def fold(model: HTCLIP, dtype: torch.dtype | None = None) -> FoldedHTCLIP:
    """Return the inference model of an HTCLIP; see :func:`ht_kernels.deploy.folded.fold`."""
    from .deploy import folded

    return folded.fold(model, dtype)


def predict(model: str | Path | HTCLIP | FoldedHTCLIP | Session, inputs: Any, **options: Any) -> Any:
    """Return ``Predictor(model, **options)(inputs)``; see :class:`ht_kernels.prediction.predictor.Predictor`.

    A checkpoint or a file is loaded at each call: make a ``Predictor`` for several.
    """
    from .prediction import Predictor

    return Predictor(model, **options)(inputs)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'ht_kernels' has no attribute {name!r}")
    if not _LAZY[name]:
        return importlib.import_module(f".{name}", __name__)
    return getattr(importlib.import_module(_LAZY[name], __name__), name)
