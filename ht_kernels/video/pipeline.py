"""The folded model over a clip, one frame at a time in the caller's thread, with its latencies."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ht_kernels.deploy import FoldedHTCLIP, Session
from ht_kernels.errors import InputError

from .frames import Frame, check_frame
from .latency import Histogram
from .model import FrameModel
from .overlay import Overlay

STAGES = ("decode", "preprocess", "segment", "overlay", "write")


@dataclass(frozen=True)
class Result:
    """One frame and what was made of it.

    Attributes:
        index: number of the frame, from 0.
        frame: as decoded.
        mask: class indices (H, W) uint8, in the size of the frame.
        overlay: the mask over the frame, (H, W, 3) RGB.
        latency: seconds per stage.
    """

    index: int
    frame: Frame
    mask: NDArray[np.uint8]
    overlay: Frame
    latency: dict[str, float]


class Pipeline:
    """Segments a clip frame by frame; for live sources and in threads see :class:`ht_kernels.video.Stream`.

    ``for result in pipeline.run(source)`` works on any iterable of frames. Time that the loop's body takes counts as
    the stage ``write``. :meth:`report` sums up what ran so far.

    Args:
        model: a folded segmentation model, or a session of one.

    Raises:
        InputError: the model does not segment.
    """

    def __init__(self, model: FoldedHTCLIP | Session) -> None:
        self._model = FrameModel(model)
        self._overlay = Overlay(self._model.class_names)
        self._latencies = {stage: Histogram() for stage in (*STAGES, "end_to_end")}
        self._seconds = 0.0
        # The first run of a model allocates and chooses kernels; it is no frame's latency.
        self.segment(np.zeros(self._model.size, dtype=np.uint8))

    def segment(self, frame: Frame) -> NDArray[np.uint8]:
        """Class indices (H, W) of one frame, (H, W) or (H, W, 3) uint8."""
        return self._segment(self._model.preprocess(frame), frame)

    def _segment(self, pixels: Tensor, frame: Frame) -> NDArray[np.uint8]:
        logits = self._model(pixels, (frame.shape[0], frame.shape[1]))
        labels: NDArray[np.uint8] = FoldedHTCLIP.classes(logits)[0].cpu().numpy()
        return labels

    def run(self, frames: Iterable[Frame]) -> Iterator[Result]:
        """Decode, segment and draw each frame.

        Raises:
            InputError: the clip is damaged or empty, or a frame has values that are not finite or not uint8.
        """
        source = iter(frames)
        start = time.perf_counter()
        index = 0
        while True:
            times = [time.perf_counter()]
            frame = next(source, None)
            if frame is None:
                break
            check_frame(frame, index)
            times.append(time.perf_counter())
            pixels = self._model.preprocess(frame)
            times.append(time.perf_counter())
            mask = self._segment(pixels, frame)
            times.append(time.perf_counter())
            overlay = self._overlay(frame, mask)
            times.append(time.perf_counter())
            latency = {stage: times[i + 1] - times[i] for i, stage in enumerate(STAGES[:-1])}
            yield Result(index, frame, mask, overlay, latency)
            latency["write"] = time.perf_counter() - times[-1]
            work = sum(latency[stage] for stage in ("preprocess", "segment", "overlay"))
            for stage, seconds in (*latency.items(), ("end_to_end", work)):
                self._latencies[stage].add(seconds)
            self._seconds += time.perf_counter() - start
            start = time.perf_counter()
            index += 1
        if index == 0:
            raise InputError("the clip has no frames")

    def report(self) -> dict[str, Any]:
        """Frames, frames per second and latencies in milliseconds.

        ``end_to_end`` is from the decoded frame to the drawn overlay: preprocess, segment, overlay.
        """
        frames = self._latencies["segment"].count
        return {
            "frames": frames,
            "fps": round(frames / self._seconds, 2) if self._seconds else None,
            "latency_ms": {stage: times.milliseconds() for stage, times in self._latencies.items() if times.count},
            "model": self._model.describe(),
        }
