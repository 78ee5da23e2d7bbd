"""The time from a frame of a source to its overlay: a phantom that moves, played live through ``video.Stream``.

The frames are simulated before the run and lie in memory, so nothing is decoded. The model is a segmentation model with
random weights, on which its time does not depend, in the runtime that ``ht-kernels stream`` takes.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import ht_kernels as ht
from ht_kernels.data.phantom import clip, draw_phantom
from ht_kernels.deploy import FoldedHTCLIP, Session
from ht_kernels.deploy.fastest import fastest
from ht_kernels.media.frames import Frame
from ht_kernels.media.source import Source
from ht_kernels.progress import Watch, unwatched, watched
from ht_kernels.video import Stream

from .document import facts
from .text import aligned

BACKBONE = "timm/vit_tiny_patch16_224"
SIZES = ((240, 320), (768, 1024), (1080, 1920))
FPS = 30.0
AGES = ("frame_age", "mask_delay", "mask_age")
"""The latencies of :meth:`ht_kernels.video.Stream.report` that are kept."""
FRAMES = 10
"""Frames that are simulated; they are played to and fro."""

_STALE = 10.0
"""The age in seconds from which masks are withheld. It is so large that none is, because the age itself is measured."""


def run(
    sizes: Sequence[tuple[int, int]], seconds: float, say: Callable[[str], None], watch: Watch = unwatched
) -> dict[str, Any]:
    """Play a phantom of each size (height, width) for so many seconds, and return the document of the latencies."""
    torch.manual_seed(0)
    model = segmentation_model(BACKBONE)
    rows = []
    for height, width in watched(sizes, "playing", watch):
        say(f"{height}x{width}: simulates {FRAMES} frames, then plays them for {seconds:g} s")
        report = play(model, phantom((height, width)), live=True, seconds=seconds)
        latencies = {name: report["latency_ms"].get(name) for name in AGES}  # None where no mask was made in time
        kept = {name: report[name] for name in ("frames", "fps", "masks_per_second", "states", "drops")}
        runtime = report["model"]["runtime"]
        rows.append({"height": height, "width": width, "runtime": runtime, **kept, "latency_ms": latencies})
    return {
        "form": "stream",
        **facts(),
        "unit": "milliseconds",
        "command": f"ht-kernels bench --stream --seconds {seconds:g} --threads {torch.get_num_threads()}",
        "model": BACKBONE,
        "threads": torch.get_num_threads(),
        "frames_per_second": FPS,
        "rows": rows,
    }


def table(document: dict[str, Any]) -> list[str]:
    """The latencies as aligned lines of text, in milliseconds."""
    lines = [["", "any frame, p50", "p99", "its mask, p50", "p99", "any mask, p50", "p99", "masks/s", "by"]]
    for row in document["rows"]:
        ages = [row["latency_ms"][name] for name in AGES]
        cells = ["-" if age is None else f"{age[percent]:.1f}" for age in ages for percent in ("p50", "p99")]
        cells += [f"{row['masks_per_second'] or 0:.1f}", row["runtime"]]
        lines.append([f"{row['height']}x{row['width']}", *cells])
    return aligned(lines)


def segmentation_model(backbone: str) -> FoldedHTCLIP | Session:
    """A segmentation model of two classes with random weights, in the fastest runtime that is installed."""
    return fastest(ht.HTCLIP(backbone, task="segmentation", num_classes=2).eval())


def play(model: FoldedHTCLIP | Session, source: Source, *, live: bool, seconds: float) -> dict[str, Any]:
    """The report of a stream of ``source`` that was stopped after so many seconds."""
    stream = Stream(model, live=live, stale=_STALE)
    end = time.monotonic() + seconds
    for _ in stream.run(source):
        if time.monotonic() > end:
            stream.stop()
    return stream.report()


def phantom(size: tuple[int, int]) -> Source:
    """A moving phantom of (height, width) without end."""
    samples = clip(draw_phantom(0, sector=False, size=size, kind="hypoechoic"), 0, FRAMES)
    there = [sample.image for sample in samples]
    return endless(Path("phantom"), "video", size, there + there[-2:0:-1])


def endless(path: Path, kind: str, size: tuple[int, int], frames: Iterable[Frame]) -> Source:
    """A source that gives ``frames`` again and again, as many in a second as :data:`FPS`."""

    def decode() -> Iterator[tuple[None, Frame]]:
        for _ in itertools.count():
            for frame in frames:
                yield None, frame

    return Source(path, kind, None, FPS, size, decode)
