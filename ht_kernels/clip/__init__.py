"""CLIP models: towers, injection and acceleration of adapters, HTCLIP, and checkpoints."""

from .acceleration import AccelerateReport, accelerate
from .htclip import HTCLIP, HTCLIPConfig
from .injection import inject

__all__ = ["HTCLIP", "AccelerateReport", "HTCLIPConfig", "accelerate", "inject"]
