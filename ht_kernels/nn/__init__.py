"""Modules: the adapter, its spectral filter, the heads, and the distance from the training images."""

from .adapter import HTAdapter
from .familiarity import Familiarity
from .heads import ClassificationHead, SegmentationHead, pyramid
from .spectral import SpectralFilter

__all__ = [
    "ClassificationHead",
    "Familiarity",
    "HTAdapter",
    "SegmentationHead",
    "SpectralFilter",
    "pyramid",
]
