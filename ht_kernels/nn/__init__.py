"""Modules: the adapter, its spectral filter and the heads."""

from .adapter import HTAdapter
from .heads import ClassificationHead, SegmentationHead, pyramid
from .spectral import SpectralFilter

__all__ = ["ClassificationHead", "HTAdapter", "SegmentationHead", "SpectralFilter", "pyramid"]
