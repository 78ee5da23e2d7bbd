"""Modules: the adapter and the heads."""

from .adapter import HTAdapter
from .heads import ClassificationHead, SegmentationHead, pyramid

__all__ = ["ClassificationHead", "HTAdapter", "SegmentationHead", "pyramid"]
