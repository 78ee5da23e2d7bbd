"""A clip, whatever file it comes from.

Frames are decoded one by one, so that a long clip need not fit into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ht_kernels.errors import InputError

from .frames import Box, Frame
from .scale import Scale, pixel_area

USUAL_FPS = 10.0
"""Frames per second of clips that do not say theirs."""


@dataclass(frozen=True)
class Source:
    """A clip; iterating over it decodes its frames, each uint8, (H, W) gray or (H, W, 3) RGB.

    :meth:`timed` gives each with its time in the clip. Iterating raises InputError where the input turns out to be
    damaged or empty.

    Attributes:
        path: where it lies.
        kind: ``dicom``, ``video``, ``images`` or ``image``.
        frame_count: number of frames, None where the file does not say.
        fps: frames per second, None where the file does not say.
        size: (height, width) of the first frame.
        decode: starts decoding from the first frame, and gives each with its time in seconds, or with None where the
            file does not say.
        scan: the part of a frame that is the scan, where a DICOM file says so; else None.
        warnings: what is amiss in the file although frames can be had, a sentence each. Opening finds some of it, and
            the latest iteration the rest.
        scales: what a DICOM file says of the sizes of pixels, a scale for each part of a frame; else empty.
        names: of pictures, one or a folder of them, the name of each frame's file; None for a clip.
    """

    path: Path
    kind: str
    frame_count: int | None
    fps: float | None
    size: tuple[int, int]
    decode: Callable[[], Iterator[tuple[float | None, Frame]]]
    scan: Box | None = None
    warnings: list[str] = field(default_factory=list)
    scales: tuple[Scale, ...] = ()
    names: tuple[str, ...] | None = None
    _known: int = field(init=False, repr=False, compare=False)  # how many of the warnings opening found

    def __post_init__(self) -> None:
        object.__setattr__(self, "_known", len(self.warnings))

    @property
    def pixel_mm2(self) -> float | None:
        """The area of a pixel in mm², where a DICOM file says one for the whole scan; else None."""
        return pixel_area(self.scales)

    def timed(self) -> Iterator[tuple[float, Frame]]:
        """Pairs of the seconds from the start, and the frame.

        The times are the file's own; without them they follow from its frame rate, and without that from 10 frames a
        second.
        """
        del self.warnings[self._known :]
        index = -1
        for index, (seconds, frame) in enumerate(self.decode()):
            yield (index / (self.fps or USUAL_FPS) if seconds is None else seconds), frame
        if index < 0:
            raise InputError(f"{self.path} has no frames")

    def __iter__(self) -> Iterator[Frame]:
        for _, frame in self.timed():
            yield frame
