"""Memory over a long run, of a file into files and of a live address into a live view; longer with ``--frames``.

Each run has a process of its own, where no memory that earlier tests gave back can hide what is lost.
"""

from __future__ import annotations

import gc
import multiprocessing
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pytest
import torch

from helpers.clips import folded, frames, write_video
from ht_kernels.video import LiveSource, Stream, open_source
from ht_kernels.video.overlay import to_rgb
from ht_kernels.video.sinks import MaskSink, VideoSink
from ht_kernels.video.view import View

pytestmark = pytest.mark.timeout(3600)

ALLOWED = {"file": 2.5e6, "live address": 12e6}
"""Bytes by which a run may grow from its middle to its last third.

An overlay of 9 kB kept for each of 1500 frames adds 4.6 MB, which a file's run shows. A live address has threads whose
buffers come and go, so its memory moves by 3 MB without a leak: only a long run finds a small one there.
"""


class Growth:
    """Resident memory along a run, looked at 30 times."""

    def __init__(self, count: int) -> None:
        self._every, self._resident = max(count // 30, 1), list[int]()

    def see(self, done: int) -> None:
        if done % self._every == 0:
            gc.collect()
            self._resident.append(psutil.Process().memory_info().rss)

    def bytes(self) -> float:
        """From the median of the middle third to that of the last; the first third makes buffers that stay."""
        third = len(self._resident) // 3
        return median(self._resident[2 * third :]) - median(self._resident[third : 2 * third])


def alone(run: Callable[..., tuple[float, dict[str, Any]]], kind: str, *args: object) -> dict[str, Any]:
    """The report of a run in a new process, after a look at how it grew."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        grown, report = pool.submit(run, *args).result()
    assert grown < ALLOWED[kind]
    return report


def file_into_files(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    torch.set_num_threads(1)
    source = open_source(write_video(folder / "a.mp4", count))
    stream, growth = Stream(folded(), smooth=0.5, crop="auto"), Growth(count)
    video, masks = VideoSink(folder / "overlay.mp4", 25), MaskSink(folder / "masks")
    for done, shown in enumerate(stream.run(source), 1):
        video.write(shown.overlay)
        assert shown.mask is not None
        masks.write(shown.mask, shown.index)
        growth.see(done)
    video.close()
    return growth.bytes(), stream.report()


def live_address_into_view(count: int) -> tuple[float, dict[str, Any]]:
    torch.set_num_threads(1)
    camera, screen, done = View(0), View(0), threading.Event()
    pictures = [to_rgb(frame) for frame in frames(10)]

    def feed() -> None:
        number = 0
        while not done.is_set():
            camera.write(pictures[number % len(pictures)])
            number += 1
            time.sleep(0.002)

    def watch() -> None:
        with urllib.request.urlopen(f"{screen.address}stream") as browser:
            while not done.is_set():
                browser.read(1000)

    threads = [threading.Thread(target=work, daemon=True) for work in (feed, watch)]
    for thread in threads:
        thread.start()
    source = open_source(f"{camera.address}stream")
    assert isinstance(source, LiveSource)
    stream, growth = Stream(folded()), Growth(count)
    for seen, shown in enumerate(stream.run(source), 1):
        screen.write(shown.overlay)
        growth.see(seen)
        if seen == count:
            stream.stop()
    done.set()
    for view in (camera, screen):
        view.close()
    return growth.bytes(), stream.report()


def test_a_file(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    count = pytestconfig.getoption("--frames")
    report = alone(file_into_files, "file", tmp_path, count)
    assert report["states"] == {"ok": count}


def test_a_live_address(pytestconfig: pytest.Config) -> None:
    count = pytestconfig.getoption("--frames")
    report = alone(live_address_into_view, "live address", count)
    assert 0 < report["frames"] <= count and report["reconnects"] == 0  # those that were shown again count once
    assert report["latency_ms"]["mask_age"]["p50"] > 0
