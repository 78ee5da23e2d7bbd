"""Cameras and addresses: frames as they come, with a watchdog that connects again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Protocol

from ht_kernels.errors import BackendError, InputError, reason
from ht_kernels.media.frames import Frame
from ht_kernels.media.video import decode_packet, shown, video_rate, video_stream
from ht_kernels.packages import import_package

from .channel import Channel, Closed
from .igtl_connection import SCHEME, open_igtl
from .placement import Placement

STALL = 2.0
"""Seconds without a frame after which a connection counts as lost."""

_TICK = 0.25
_BACKOFF = (0.5, 10.0)
"""Seconds before the first try to connect again; they double with each try, up to the second number."""

_OPEN_TIMEOUT = 5.0
_PROTOCOLS = "crypto,hls,http,https,httpproxy,rtmp,rtmps,rtp,rtsp,rtsps,srt,srtp,tcp,tls,udp"
"""What FFmpeg may open for an address: no files, so that a playlist from elsewhere cannot read them."""

_STREAMED = ("rtsp:", "rtsps:", "rtp:", "srt:", "srtp:", "udp:")


class Connection(Protocol):
    """An open camera or address.

    Attributes:
        fps: frames per second as announced, or None.
        size: (height, width) of its frames.
    """

    fps: float | None
    size: tuple[int, int]

    def frames(self) -> Iterator[tuple[Frame, Placement | None] | str]:
        """Each frame, with its placement where the sender says one, or why something that came is left out."""

    def close(self) -> None:
        """End the connection."""


class LiveSource:
    """A camera or an address; iterating gives the newest frame, uint8 (H, W, 3) RGB, and never ends by itself.

    Frames that come by OpenIGTLink may be gray, (H, W). A connection that ends, fails or gives no frame for
    :data:`STALL` seconds is opened again after a wait. The wait doubles from try to try, from 0.5 to 10 seconds. Only
    one loop at a time may iterate; :meth:`close` ends it.

    Args:
        path: the device or address, without a password in it.
        kind: see below.
        connection: the first.
        connect: makes another.

    Attributes:
        path: the device or address.
        kind: ``camera``, ``url`` or ``igtl``.
        frame_count: None, for it is not known.
        fps: frames per second as announced, or None.
        size: (height, width) as announced.
        reconnects: how often a lost connection was opened again and gave a frame.
        drops: frames that were replaced by a newer one before they were taken.
        damaged: packets or messages that could not be decoded and were left out.
        trouble: why there is no frame, where the last thing that came was none; else empty.
    """

    frame_count = None

    def __init__(self, path: str, kind: str, connection: Connection, connect: Callable[[], Connection]) -> None:
        self.path, self.kind = path, kind
        self.fps, self.size = connection.fps, connection.size
        self.reconnects, self.drops, self.damaged = 0, 0, 0
        self.trouble = ""
        self._connection: Connection | None = connection
        self._connect = connect
        self._closed = threading.Event()

    def timed(self) -> Iterator[tuple[float, Frame]]:
        """Pairs of the seconds since the first frame came, and the frame."""
        for seconds, frame, _ in self.placed():
            yield seconds, frame

    def placed(self) -> Iterator[tuple[float, Frame, Placement | None]]:
        """The seconds since the first frame came, the frame, and its placement where the sender says one."""
        wait, first, again = _BACKOFF[0], 0.0, False
        while not self._closed.is_set():
            channel: Channel[tuple[float, Frame, Placement | None]] = Channel(1, newest_wins=True)
            # A reader may hang in a driver or a socket for ever: it is then left alone, and its channel is closed.
            threading.Thread(target=self._read, args=(channel, self._connection), daemon=True).start()
            try:
                for came, frame, placement in self._frames(channel, _OPEN_TIMEOUT + STALL if again else STALL):
                    self.reconnects += again
                    wait, first, again = _BACKOFF[0], first or came, False
                    yield came - first, frame, placement
            finally:
                self.drops += channel.drops
                channel.close(discard=True)
                self._connection = None
            if self._closed.wait(wait):
                return
            wait, again = min(2 * wait, _BACKOFF[1]), True

    def _frames(
        self, channel: Channel[tuple[float, Frame, Placement | None]], patience: float
    ) -> Iterator[tuple[float, Frame, Placement | None]]:
        """The frames that a reader puts into a channel, and when each came.

        They end when the reader does, when the first takes longer than ``patience`` seconds or a later one longer than
        :data:`STALL`, and when the source is closed.
        """
        last = time.monotonic()
        while not self._closed.is_set() and time.monotonic() - last < patience:
            try:
                yield channel.get(_TICK)
            except TimeoutError:
                continue
            except Closed:
                return
            last, patience = time.monotonic(), STALL

    def __iter__(self) -> Iterator[Frame]:
        for _, frame in self.timed():
            yield frame

    def close(self) -> None:
        """End every iteration."""
        self._closed.set()

    def _read(self, channel: Channel[tuple[float, Frame, Placement | None]], connection: Connection | None) -> None:
        try:
            with closing(connection or self._connect()) as opened:
                for came in opened.frames():
                    if isinstance(came, str):
                        self.damaged, self.trouble = self.damaged + 1, came
                    else:
                        self.trouble = ""
                        channel.put((time.monotonic(), *came))
        except Closed:
            return
        except (InputError, BackendError, ValueError, OSError) as error:
            self.trouble = reason(error)
        channel.close()


class VideoConnection:
    """A camera or an address, opened by PyAV.

    Args:
        container: PyAV's.

    Attributes:
        fps: frames per second as announced, or None.
        size: (height, width) as announced.
    """

    def __init__(self, container: Any) -> None:
        stream = video_stream(container)
        self.fps, self.size = video_rate(stream), (stream.height, stream.width)
        self._container, self._stream = container, stream

    def frames(self) -> Iterator[tuple[Frame, None] | str]:
        """Each frame, or why one is left out.

        Raises:
            OSError: the connection is lost.
        """
        import av

        try:
            for packet in self._container.demux(self._stream):
                frames, damage = decode_packet(packet)
                if damage is not None:
                    yield damage
                for frame in frames:
                    yield shown(frame, packet.stream), None
        except av.error.FFmpegError as error:
            raise OSError(error.strerror or type(error).__name__) from error  # its message has the whole address

    def close(self) -> None:
        """End the connection."""
        self._container.close()


def open_live(address: str) -> LiveSource:
    """Connect to a V4L2 device or an address.

    Raises:
        InputError: it cannot be opened or has no video.
    """
    kind = "igtl" if address.startswith(SCHEME) else "url" if "://" in address else "camera"

    def connect() -> Connection:
        if kind == "igtl":
            return open_igtl(address, _OPEN_TIMEOUT, STALL)
        return VideoConnection(_open(address, kind))

    return LiveSource(without_password(address), kind, connect(), connect)


def _open(address: str, kind: str) -> Any:
    av = import_package("av", "cameras and addresses need PyAV", "av")
    shown = without_password(address)
    options = {"flags": "low_delay"}
    if kind == "camera" or address.startswith(_STREAMED):
        # Not for a file at an address: FFmpeg would lose the packets that show it the format, and the only keyframe.
        options["fflags"] = "nobuffer"
    if kind == "url":
        options["protocol_whitelist"] = _PROTOCOLS
        if address.startswith("rtsp"):
            options["rtsp_transport"] = "tcp"
    try:
        container = av.open(
            address, format="v4l2" if kind == "camera" else None, options=options, timeout=(_OPEN_TIMEOUT, STALL)
        )
    except (av.error.FFmpegError, ValueError, OSError) as error:
        said = (getattr(error, "strerror", None) or reason(error)).replace(address, shown)
        expected = "a V4L2 device, such as /dev/video0" if kind == "camera" else "an address that sends video now"
        raise InputError(f"{shown} cannot be opened ({said}): name {expected}") from error
    if video_stream(container) is None:
        container.close()
        raise InputError(f"{shown} has no video stream")
    return container


def without_password(address: str) -> str:
    scheme, separator, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}" if separator else address
