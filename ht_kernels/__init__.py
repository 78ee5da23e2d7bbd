"""Hybrid-tuning of CLIP for ultrasound, on compiled kernels."""

from __future__ import annotations

from . import functional
from .backends import available_backends, set_backend
from .nn import HTAdapter

__version__ = "0.1.0"

__all__ = ["HTAdapter", "available_backends", "functional", "set_backend"]
