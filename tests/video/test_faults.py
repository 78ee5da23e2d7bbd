"""What goes wrong around a stream: sources that stall or break off, full disks, interrupts at any moment, bad files."""

from __future__ import annotations

import json
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.clips import folded, frames, write_dicom, write_video
from ht_kernels.cli import main, model_options
from ht_kernels.errors import InputError
from ht_kernels.video import LiveSource, Stream, chart, live, open_source, record
from ht_kernels.video.view import View

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(120)]


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """An address that answers every request with ``answer``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/a.mp4"
    server.shutdown()
    server.server_close()


def test_a_camera_that_stalls_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection stays open and nothing comes; the watchdog gives it up, and the camera then goes on."""
    monkeypatch.setattr(live, "STALL", 0.5)
    camera, done, silent = View(0), threading.Event(), threading.Event()

    def feed() -> None:
        while not done.wait(0.01):
            if not silent.is_set():
                camera.write(np.full((48, 64, 3), 90, np.uint8))

    threading.Thread(target=feed, daemon=True).start()
    source = open_source(f"{camera.address}stream")
    assert isinstance(source, LiveSource)
    stream, states = Stream(folded()), []
    for shown in stream.run(source):
        states.append(shown.state)
        if len(states) == 20:
            silent.set()
        if states[-1] == "no signal":
            silent.clear()
        if source.reconnects and states[-1] == "ok":
            break
    done.set()
    camera.close()
    assert "no signal" in states and stream.report()["reconnects"] == 1
    assert not {"ok", "late"}.isdisjoint(states[:20])


def test_waits_between_tries_double_up_to_a_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content, asked = write_video(tmp_path / "a.mp4", 3).read_bytes(), []

    def once(request: BaseHTTPRequestHandler) -> None:
        asked.append(request)
        if len(asked) > 1:
            request.send_error(503)
            return
        request.send_response(200)
        request.end_headers()
        request.wfile.write(content)

    with serving(once) as address:
        source = open_source(address)
        assert isinstance(source, LiveSource)
        waits: list[float] = []

        def wait(seconds: float) -> bool:
            waits.append(seconds)
            return len(waits) == 7

        monkeypatch.setattr(source._closed, "wait", wait)
        assert len(list(source)) >= 1
    assert waits == [0.5, 1, 2, 4, 8, 10, 10] and len(asked) == 7


def test_connecting_again_may_take_longer_than_a_stall(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(live, "STALL", 0.4)
    content, asked = write_video(tmp_path / "a.mp4", 5).read_bytes(), []

    def slow(request: BaseHTTPRequestHandler) -> None:
        asked.append(request)
        time.sleep(1.0 if len(asked) > 1 else 0)
        request.send_response(200)
        request.end_headers()
        request.wfile.write(content)

    with serving(slow) as address:
        source = open_source(address)
        assert isinstance(source, LiveSource)
        for _ in source:
            if source.reconnects:
                source.close()
    assert source.reconnects == 1 and len(asked) == 2


def test_an_address_that_breaks_off_within_a_frame(tmp_path: Path) -> None:
    content = write_video(tmp_path / "a.mp4", 60, (240, 320)).read_bytes()

    def half(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content[: len(content) * 2 // 3])
        request.connection.close()

    with serving(half) as address:
        source = open_source(address)
        assert isinstance(source, LiveSource)
        seen = 0
        for frame in source:
            assert frame.shape == (240, 320, 3)
            seen += 1
            if source.reconnects == 1:
                source.close()
    assert seen > 0


def test_a_live_source_that_changes_size_and_colour() -> None:
    small, large = frames(1)[0], np.repeat(frames(1, 64, 80)[0][..., None], 3, 2)

    def camera() -> Iterator[np.ndarray]:
        for frame in [small] * 15 + [large] * 15 + [small] * 15:
            time.sleep(0.02)
            yield frame

    shown = list(Stream(folded(), live=True, smooth=0.5, crop="auto", stale=5).run(camera()))
    assert {s.overlay.shape for s in shown} == {(48, 64, 3), (64, 80, 3)}
    assert all(s.mask is None or s.mask.shape == s.frame.shape[:2] for s in shown)
    assert {s.state for s in shown} <= {"waiting", "late", "ok"} and any(s.mask is not None for s in shown[-10:])


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """Fail writes beyond, of FFmpeg and Python alike, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("limit", [0, 400, 20_000, 60_000])
def test_a_full_disk(tmp_path: Path, limit: int, capsys: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 96, 128), dtype=np.uint8)
    source, model = open_source(write_dicom(tmp_path / "clip.dcm", noise)), folded()
    with pytest.raises(InputError, match="cannot be written: "), file_size_limit(limit):
        record(source, Stream(model), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["clip.dcm"]


class Interrupt:
    """Sends SIGINT to this process when the ``line``-th line runs of what the command does once it is parsed."""

    FILES = (
        "cli/stream.py",
        "cli/terminal.py",
        "video/recording.py",
        "video/stream.py",
        "video/channel.py",
        "video/sinks.py",
        "ht_kernels/files.py",
    )

    def __init__(self, line: int) -> None:
        self.line, self.seen = line, 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.endswith(self.FILES) or frame.f_code.co_name == "add_arguments":
            return None
        if event == "line":
            self.seen += 1
            if self.seen == self.line:
                signal.raise_signal(signal.SIGINT)
        return self

    @contextmanager
    def armed(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self)
        try:
            yield
        finally:
            sys.settrace(before)


def test_an_interrupt_at_any_moment(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves everything or nothing, whatever the line it comes at, from the first of the command to the last."""
    model = folded()
    monkeypatch.setattr(model_options, "load_model", lambda args: (model, True))
    monkeypatch.setattr("ht_kernels.fold", lambda model: model)
    monkeypatch.setattr(chart, "draw", lambda report: b"")  # slow when traced
    clip = write_dicom(tmp_path_factory.mktemp("clip") / "clip.dcm", np.stack(frames(2)), FrameTime="40")

    def run(line: int, folder: Path) -> tuple[int, int]:
        interrupt = Interrupt(line)
        with interrupt.armed():
            status = main(
                [
                    "stream",
                    str(clip),
                    "--output",
                    str(folder / "out"),
                    "--checkpoint",
                    "breast",
                    "--runtime",
                    "cpu",
                ]
            )
        return status, interrupt.seen

    status, lines = run(0, tmp_path_factory.mktemp("whole"))
    assert status == 0 and lines > 300

    @settings(max_examples=30, deadline=None)
    @given(st.integers(1, lines))
    def interrupted(line: int) -> None:
        folder = tmp_path_factory.mktemp("interrupted")
        status, _ = run(line, folder)
        if not any(folder.iterdir()):
            assert status == 130
            return
        assert [p.name for p in folder.iterdir()] == ["out"]
        report = json.loads((folder / "out/report.json").read_text())
        assert status == 130 or (status == 0 and report["frames"] == 2)
        written = {p.name for p in (folder / "out").iterdir()}
        assert written - {"settings.yaml"} == {"latency.png", "masks", "overlay.mp4", "report.json"}
        with av.open(folder / "out/overlay.mp4") as container:
            assert sum(1 for _ in container.decode(video=0)) == report["frames"] == sum(report["states"].values()) > 0

    interrupted()
