"""Hybrid-tuning of CLIP for ultrasound, with fused kernels.

Everything is imported at its first use, torch too. The torch operators are registered when ``functional`` is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy import lazily

if TYPE_CHECKING:
    from . import data, deploy, functional, prediction, video
    from .clip import HTCLIP, accelerate, inject
    from .deploy import fold
    from .nn import HTAdapter
    from .ops.dispatch import available_backends, set_backend
    from .prediction import Predictor, predict

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

__getattr__, __dir__ = lazily(
    __name__,
    {
        "HTCLIP": ".clip",
        "HTAdapter": ".nn",
        "Predictor": ".prediction.predictor",
        "accelerate": ".clip",
        "available_backends": ".ops.dispatch",
        "fold": ".deploy.folded",
        "inject": ".clip",
        "predict": ".prediction.predictor",
        "set_backend": ".ops.dispatch",
    },
    ("data", "deploy", "functional", "prediction", "video"),
)
