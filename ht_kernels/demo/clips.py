"""Two clips as streams: a simulated phantom that moves, and a heart, which a model of breasts does not know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ht_kernels.data import phantom
from ht_kernels.deploy import FoldedHTCLIP, Session
from ht_kernels.dice import dice
from ht_kernels.media.opening import open_file
from ht_kernels.media.source import Source
from ht_kernels.video import Shown, Stream, example, record


@dataclass(frozen=True)
class PhantomClip:
    """A segmented clip of a phantom.

    Attributes:
        shown: its frames with the masks of the model.
        truths: the exact mask (H, W) of each frame, True in the lesion.
        dice: of each frame.
        fps: frames per second from frame to overlay.
    """

    shown: list[Shown]
    truths: list[NDArray[np.bool_]]
    dice: list[float]
    fps: float


@dataclass(frozen=True)
class HeartClip:
    """A segmented clip of a heart.

    Attributes:
        shown: its frames.
        report: that of the stream, as ``report.json`` has it.
    """

    shown: list[Shown]
    report: dict[str, Any]


def segment_phantom(model: FoldedHTCLIP | Session) -> PhantomClip:
    """Run a model over 30 frames of a phantom that it was not trained on."""
    samples = phantom.clip(phantom.Phantom(kind="hypoechoic"), seed=0, frames=30)
    truths = [sample.mask > 0 for sample in samples]
    stream = Stream(model)
    shown = list(stream.run(sample.image for sample in samples))
    overlaps = []
    for frame, truth in zip(shown, truths, strict=True):
        assert frame.mask is not None, frame.note
        overlaps.append(dice(frame.mask > 0, truth))
    return PhantomClip(shown, truths, overlaps, stream.report()["fps"])


def heart() -> Source:
    """The clip of a heart that comes with pydicom.

    Raises:
        InputError: pydicom or the clip is missing.
    """
    return open_file(example.example_clip())


def record_heart(
    source: Source, stream: Stream, output: Path, weights: str, watch: Callable[[Shown], None]
) -> HeartClip:
    """Run a stream over the clip and write its overlay, masks and report, as :func:`ht_kernels.video.record` does."""
    frames: list[Shown] = []

    def keep(shown: Shown) -> None:
        watch(shown)
        frames.append(shown)

    report = record(source, stream, output, weights=weights, watch=keep)
    return HeartClip(frames, report)
