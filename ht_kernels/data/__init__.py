"""Ultrasound for training: datasets in the published layout, their preparation, and simulated phantoms.

``phantom`` simulates, ``prepare`` turns public downloads into the layout of ``layout``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ht_kernels.lazy import lazily

if TYPE_CHECKING:
    from .captions import CaptionDataset
    from .classification import ClassificationDataset
    from .phantom import Phantom, PhantomDataset
    from .segmentation import SegmentationDataset

__all__ = ["CaptionDataset", "ClassificationDataset", "Phantom", "PhantomDataset", "SegmentationDataset"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "CaptionDataset": ".captions",
        "ClassificationDataset": ".classification",
        "Phantom": ".phantom",
        "PhantomDataset": ".phantom",
        "SegmentationDataset": ".segmentation",
    },
    ("layout", "phantom", "prepare"),
)
