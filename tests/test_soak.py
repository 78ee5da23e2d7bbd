"""Memory over a long run, of a file into files and of a live address into a live view; longer with ``--frames``."""

from __future__ import annotations

import gc
import threading
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from test_video import folded, frames, write_video

from ht_kernels.video import LiveSource, Stream, open_source
from ht_kernels.video.overlay import to_rgb
from ht_kernels.video.sinks import MaskSink, VideoSink
from ht_kernels.video.view import View

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(3600)]

ALLOWED = 5e6
"""Bytes by which a run may grow after its first quarter; an overlay per frame kept would be 7 MB in 1000 frames."""


class Growth:
    """Resident memory since the first quarter of a run."""

    def __init__(self, count: int) -> None:
        self._warm, self._start = count // 4, 0

    def see(self, done: int) -> None:
        if done == self._warm:
            self._start = self._resident()

    def bytes(self) -> int:
        assert self._start
        grown = self._resident() - self._start
        print(f"grown by {grown / 1e6:.2f} MB")
        return grown

    @staticmethod
    def _resident() -> int:
        gc.collect()
        return int(psutil.Process().memory_info().rss)


def test_a_file(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    count = pytestconfig.getoption("--frames")
    source = open_source(write_video(tmp_path / "a.mp4", count))
    stream, growth = Stream(folded(), smooth=0.5, crop="auto"), Growth(count)
    video, masks = VideoSink(tmp_path / "overlay.mp4", 25), MaskSink(tmp_path / "masks")
    for done, shown in enumerate(stream.run(source), 1):
        video.write(shown.overlay)
        assert shown.mask is not None
        masks.write(shown.mask, shown.index)
        growth.see(done)
    assert growth.bytes() < ALLOWED
    video.close()
    assert stream.report()["states"] == {"ok": count}


def test_a_live_address(pytestconfig: pytest.Config) -> None:
    count = pytestconfig.getoption("--frames")
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
    assert growth.bytes() < ALLOWED
    done.set()
    for view in (camera, screen):
        view.close()
    report = stream.report()
    assert report["frames"] == count and report["reconnects"] == 0 and report["latency_ms"]["mask_age"]["p50"] > 0
