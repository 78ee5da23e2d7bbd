"""Six breast ultrasound images that the model was not trained on, beside the outlines of experts.

``samples/README.md`` says whose images they are, under which licence, and how they were chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ht_kernels.deploy import FoldedHTCLIP, Session
from ht_kernels.dice import dice
from ht_kernels.media.frames import Frame
from ht_kernels.media.mask import read_mask
from ht_kernels.media.opening import read_image
from ht_kernels.video import Shown, Stream

SAMPLES = Path(__file__).with_name("samples")

CREDIT = "BUSI: Al-Dhabyani et al., Data in Brief 28, 2020, 104863; CC BY 4.0"
"""Whose images they are, as their licence asks for."""


@dataclass(frozen=True)
class Sample:
    """An image and what an expert says of it.

    Attributes:
        name: such as "benign 063".
        image: (H, W) uint8.
        truth: (H, W), True in the lesion.
    """

    name: str
    image: Frame
    truth: NDArray[np.bool_]


@dataclass(frozen=True)
class Segmented:
    """A sample and what the model makes of it.

    Attributes:
        shown: the result of the stream; its mask is None if the model calls the image unfamiliar.
        dice: of the mask and the truth, in the image's own pixels; None without a mask.
    """

    sample: Sample
    shown: Shown
    dice: float | None


def samples() -> list[Sample]:
    """The six images, from the smallest lesion to the largest."""
    found = []
    for path in (SAMPLES / "images").iterdir():
        name = path.stem.removeprefix("busi_").replace("_", " ")
        found.append(Sample(name, np.asarray(read_image(path)), read_mask(SAMPLES / "masks" / path.name) > 0))
    return sorted(found, key=lambda sample: float(sample.truth.mean()))


def segment(model: FoldedHTCLIP | Session) -> list[Segmented]:
    """Run a model over the six images, as a stream of single images."""
    every = samples()
    segmented = []
    for sample, shown in zip(every, Stream(model).run(sample.image for sample in every), strict=True):
        overlap = None if shown.mask is None else dice(shown.mask > 0, sample.truth)
        segmented.append(Segmented(sample, shown, overlap))
    return segmented
