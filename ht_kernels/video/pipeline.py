"""The folded model over a clip, one frame at a time as at the scanner, with its latencies."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ht_kernels.deploy import FoldedHTCLIP
from ht_kernels.errors import InputError

from .overlay import Overlay
from .preprocess import preprocess
from .sources import Frame

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
    """Segments a clip frame by frame.

    ``for result in pipeline.run(source)`` works on any iterable of frames. Time that the loop's body takes counts as
    the stage ``write``. :meth:`report` sums up what ran so far.

    Args:
        model: a folded segmentation model.

    Raises:
        InputError: the model does not segment.
    """

    def __init__(self, model: FoldedHTCLIP) -> None:
        if model.config.task != "segmentation":
            raise InputError(f"a clip needs a segmentation model, got one for {model.config.task}")
        self.model = model
        self._overlay = Overlay(_class_names(model))
        self._latencies: dict[str, list[float]] = {stage: [] for stage in STAGES}
        self._seconds = 0.0
        # The first run of a model allocates and chooses kernels; it is no frame's latency.
        self.segment(np.zeros(model.image_size, dtype=np.uint8))

    @torch.inference_mode()
    def segment(self, frame: Frame) -> NDArray[np.uint8]:
        """Class indices (H, W) of one frame, (H, W) or (H, W, 3) uint8."""
        return self._segment(preprocess(frame, self.model.image_size), frame.shape[:2])

    @torch.inference_mode()
    def _segment(self, pixels: torch.Tensor, size: tuple[int, ...]) -> NDArray[np.uint8]:
        logits = self.model(pixels.to(self.model.position.device), output_size=(size[0], size[1]))[0]
        mask = logits.argmax(0) if logits.shape[0] > 1 else logits[0] > 0
        labels: NDArray[np.uint8] = mask.to(torch.uint8).cpu().numpy()
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
            pixels = preprocess(frame, self.model.image_size)
            times.append(time.perf_counter())
            mask = self._segment(pixels, frame.shape[:2])
            times.append(time.perf_counter())
            overlay = self._overlay(frame, mask)
            times.append(time.perf_counter())
            latency = {stage: times[i + 1] - times[i] for i, stage in enumerate(STAGES[:-1])}
            yield Result(index, frame, mask, overlay, latency)
            latency["write"] = time.perf_counter() - times[-1]
            for stage, seconds in latency.items():
                self._latencies[stage].append(seconds)
            self._seconds += time.perf_counter() - start
            start = time.perf_counter()
            index += 1
        if index == 0:
            raise InputError("the clip has no frames")

    def report(self) -> dict[str, Any]:
        """Frames, frames per second and latencies in milliseconds.

        ``end_to_end`` is from the decoded frame to the drawn overlay: preprocess, segment, overlay.
        """
        parts = [self._latencies[stage] for stage in ("preprocess", "segment", "overlay")]
        rows = {**self._latencies, "end_to_end": [sum(stages) for stages in zip(*parts, strict=True)]}
        frames = len(rows["segment"])
        config = asdict(self.model.config)
        return {
            "frames": frames,
            "fps": round(frames / self._seconds, 2) if self._seconds else None,
            "latency_ms": {stage: _percentiles(seconds) for stage, seconds in rows.items() if seconds},
            "model": {**config, "frame_size": list(self.model.image_size), "device": str(self.model.position.device)},
        }


def check_frame(frame: Frame, index: int) -> None:
    """Raise InputError unless a frame is (H, W) or (H, W, 3) uint8."""
    shape = np.shape(frame)
    if not isinstance(frame, np.ndarray) or len(shape) not in (2, 3) or shape[2:] not in ((), (3,)):
        raise InputError(f"frame {index} has shape {shape}, expected an array (H, W) or (H, W, 3)")
    if frame.size == 0:
        raise InputError(f"frame {index} is empty: its shape is {shape}")
    if np.issubdtype(frame.dtype, np.floating) and not np.isfinite(frame).all():
        raise InputError(f"frame {index} has values that are not finite (NaN or infinity)")
    if frame.dtype != np.uint8:
        raise InputError(f"frame {index} has dtype {frame.dtype}, expected uint8 with values 0 to 255")


def _class_names(model: FoldedHTCLIP) -> tuple[str, ...]:
    names, count = model.config.class_names, model.config.num_classes
    if count == 1:
        return ("background", names[0] if names else "class 1")
    return names or tuple(f"class {i}" for i in range(count))


def _percentiles(seconds: list[float]) -> dict[str, float]:
    values = np.percentile(np.array(seconds) * 1e3, (50, 95, 99))
    return {name: round(float(value), 3) for name, value in zip(("p50", "p95", "p99"), values, strict=True)}
