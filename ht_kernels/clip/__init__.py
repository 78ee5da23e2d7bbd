"""CLIP: towers, injection of adapters, HTCLIP, checkpoints."""

from .htclip import HTCLIP, HTCLIPConfig
from .inject import inject

__all__ = ["HTCLIP", "HTCLIPConfig", "inject"]
