"""Cameras and addresses: frames as they come, with a watchdog that connects again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

from ht_kernels.errors import InputError, reason
from ht_kernels.media.frames import Frame
from ht_kernels.media.video import decode_packet, shown, video_rate, video_stream
from ht_kernels.packages import import_package

from .channel import Channel, Closed

STALL = 2.0
"""Seconds without a frame after which a connection counts as lost."""

_TICK = 0.25
_BACKOFF = (0.5, 10.0)
"""Seconds before the first try to connect again; they double with each try, up to the second number."""

_OPEN_TIMEOUT = 5.0
_PROTOCOLS = "crypto,hls,http,https,httpproxy,rtmp,rtmps,rtp,rtsp,rtsps,srt,srtp,tcp,tls,udp"
"""What FFmpeg may open for an address: no files, so that a playlist from elsewhere cannot read them."""

_STREAMED = ("rtsp:", "rtsps:", "rtp:", "srt:", "srtp:", "udp:")


class LiveSource:
    """A camera or an address; iterating gives the newest frame, uint8 (H, W, 3) RGB, and never ends by itself.

    A connection that ends, fails or gives no frame for :data:`STALL` seconds is opened again after a wait. The wait
    doubles from try to try, from 0.5 to 10 seconds. Only one loop at a time may iterate; :meth:`close` ends it.

    Attributes:
        path: the device or address, without a password in it.
        kind: ``camera`` or ``url``.
        frame_count: None, for it is not known.
        fps: frames per second as announced, or None.
        size: (height, width) as announced.
        reconnects: how often a lost connection was opened again and gave a frame.
        drops: frames that were replaced by a newer one before they were taken.
        damaged: packets that could not be decoded and were left out.
    """

    frame_count = None

    def __init__(self, address: str, kind: str, container: Any) -> None:
        stream = video_stream(container)
        self.path, self.kind = without_password(address), kind
        self.fps = video_rate(stream)
        self.size = stream.height, stream.width
        self.reconnects, self.drops, self.damaged = 0, 0, 0
        self._address = address
        self._container: Any = container
        self._closed = threading.Event()

    def timed(self) -> Iterator[tuple[float, Frame]]:
        """Pairs of the seconds since the first frame came, and the frame."""
        wait, first, again = _BACKOFF[0], 0.0, False
        while not self._closed.is_set():
            channel: Channel[tuple[float, Frame]] = Channel(1, newest_wins=True)
            # A reader may hang in a driver or a socket for ever: it is then left alone, and its channel is closed.
            threading.Thread(target=self._read, args=(channel, self._container), daemon=True).start()
            try:
                for came, frame in self._frames(channel, _OPEN_TIMEOUT + STALL if again else STALL):
                    self.reconnects += again
                    wait, first, again = _BACKOFF[0], first or came, False
                    yield came - first, frame
            finally:
                self.drops += channel.drops
                channel.close(discard=True)
                self._container = None
            if self._closed.wait(wait):
                return
            wait, again = min(2 * wait, _BACKOFF[1]), True

    def _frames(self, channel: Channel[tuple[float, Frame]], patience: float) -> Iterator[tuple[float, Frame]]:
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

    def _read(self, channel: Channel[tuple[float, Frame]], container: Any) -> None:
        import av

        try:
            with container or _connect(self._address, self.kind) as container:
                for packet in container.demux(video_stream(container)):
                    frames, damage = decode_packet(packet)
                    self.damaged += damage is not None
                    for frame in frames:
                        channel.put((time.monotonic(), shown(frame, packet.stream)))
            channel.close()
        except Closed:
            pass
        except (InputError, av.error.FFmpegError, ValueError, OSError):
            channel.close()


def open_live(address: str) -> LiveSource:
    """Connect to a V4L2 device or an address.

    Raises:
        InputError: it cannot be opened or has no video.
    """
    kind = "url" if "://" in address else "camera"
    return LiveSource(address, kind, _connect(address, kind))


def _connect(address: str, kind: str) -> Any:
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
