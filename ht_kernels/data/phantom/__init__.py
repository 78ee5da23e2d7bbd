"""A simulator of ultrasound phantoms: speckle, attenuation, lesions with exact masks, artifacts, moving clips.

Everything follows from a :class:`Phantom` and a seed. ``PhantomDataset`` feeds training.
"""

from .caption import caption
from .config import KINDS, LABELS, Interference, LesionKind, Motion, Phantom
from .dataset import PhantomDataset, draw_phantom
from .lesion import Lesion
from .scan import LinearScan, SectorScan
from .simulate import Sample, clip, simulate

__all__ = [
    "KINDS",
    "LABELS",
    "Interference",
    "Lesion",
    "LesionKind",
    "LinearScan",
    "Motion",
    "Phantom",
    "PhantomDataset",
    "Sample",
    "SectorScan",
    "caption",
    "clip",
    "draw_phantom",
    "simulate",
]
