"""Ultrasound for training: datasets in the published layout, their preparation, and simulated phantoms.

``phantom`` simulates, ``prepare`` turns public downloads into the layout of ``layout``.
"""

from .captions import CaptionDataset
from .classification import ClassificationDataset
from .phantom import Phantom, PhantomDataset
from .segmentation import SegmentationDataset

__all__ = ["CaptionDataset", "ClassificationDataset", "Phantom", "PhantomDataset", "SegmentationDataset"]


def __dir__() -> list[str]:
    return __all__
