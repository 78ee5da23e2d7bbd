"""The published computation against ht_kernels: the same weights and the same image, in turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ht_kernels.bench.measure import interleave
from ht_kernels.classes import classes_of
from ht_kernels.clip import HTCLIP
from ht_kernels.deploy import FoldedHTCLIP
from ht_kernels.media.frames import Frame
from ht_kernels.media.preprocess import preprocess
from ht_kernels.published import PublishedHTCLIP

SECONDS = 4.0
"""How long the two ways are timed, together."""


@dataclass(frozen=True)
class Comparison:
    """Time and difference of the two ways.

    Attributes:
        published, ours: milliseconds for an image, the median of the samples.
        samples: how often each way was timed.
        difference: the largest absolute difference of logits.
        range: the largest absolute logit.
        agreement: the share of pixels with the same class, from 0 to 1.
        threads: how many threads each way ran in.
    """

    published: float
    ours: float
    samples: int
    difference: float
    range: float
    agreement: float
    threads: int

    @property
    def ratio(self) -> float:
        """How many times as fast ht_kernels is."""
        return self.published / self.ours


def compare(model: HTCLIP, folded: FoldedHTCLIP, image: Frame) -> Comparison:
    """Time a model as published and as folded, from an image (H, W) uint8 in the model's size to its logits."""
    published = PublishedHTCLIP.like(model)
    frames = torch.from_numpy(preprocess(image, folded.image_size))
    images = (frames / 255).expand(-1, 3, -1, -1).contiguous()
    ways: dict[str, Callable[[], Tensor]] = {
        "published": lambda: published(images),
        "ours": lambda: folded(frames),
    }
    with torch.inference_mode():
        theirs, ours = (way() for way in ways.values())
        timings = interleave(ways, SECONDS)
    return Comparison(
        published=1e3 * timings["published"].median,
        ours=1e3 * timings["ours"].median,
        samples=timings["ours"].samples,
        difference=float((theirs - ours).abs().max()),
        range=float(theirs.abs().max()),
        agreement=float((classes_of(theirs) == classes_of(ours)).float().mean()),
        threads=torch.get_num_threads(),
    )
