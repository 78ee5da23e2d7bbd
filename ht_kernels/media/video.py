"""Video files, by FFmpeg's libraries, as RGB frames.

A frame is what a player shows: turned upright by the display matrix that a phone writes, as wide as the shape of its
pixels asks for, and with the colours that its own tags state. Interlaced frames are left as they are.

A file that was cut off, or is damaged, gives the frames that are there, and its source warns. Damaged packets are left
out and counted.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ht_kernels.errors import InputError, reason
from ht_kernels.packages import import_package

from .frames import Frame, plausible_rate
from .image import open_image
from .source import Source

_STATE_THEIR_LENGTH = {"matroska", "mov", "avi", "flv"}
"""FFmpeg's names of containers whose header says how long the video is; other lengths are read off the file's end."""

_STILL_IMAGES = "_pipe", "image2", "gif", "apng"
"""Endings of FFmpeg's names of image formats. Images are read by Pillow, or refused, in training and here alike."""

_TS_PACKETS = 188, 192, 204
"""Bytes of a packet of an MPEG transport stream: plain, with times, and with error correction."""

_PIXEL_SHAPES = 0.25, 4.0
"""Width of a pixel over its height, at least and at most: damaged files state anything."""


def open_video(path: Path) -> Source:
    """Open a video file, and decode its first frame.

    Raises:
        InputError: PyAV is not installed, the file is no video, or no frame of it can be decoded.
    """
    av = import_package("av", "video files need PyAV", "av")
    try:
        with _container(path) as container:
            if container.format.name.endswith(_STILL_IMAGES):
                return open_image(path)  # which says what is wrong with it
            stream = None if container.format.name == "tty" else video_stream(container)
            if stream is None:
                raise InputError(f"{path} has no video stream")
            if not getattr(stream, "height", 0):  # a codec that FFmpeg does not know
                raise InputError(f"{path} has a video stream that cannot be decoded")
            fps, count = video_rate(stream), stream.frames or None
    except InputError:
        raise
    except (av.error.FFmpegError, ValueError) as error:
        why = _why(error, log=True)
        raise InputError(
            f"{path} is neither an ultrasound DICOM file, nor a video or an image that can be read ({why})"
        ) from error
    _, first = next(_decode_video(path, []))
    warnings: list[str] = []
    size = first.shape[0], first.shape[1]
    return Source(path, "video", count, fps, size, lambda: _decode_video(path, warnings), warnings=warnings)


def video_stream(container: Any) -> Any:
    """The video of PyAV's container: the first marked as default, else the first; None where there is none.

    A cover picture is none, although FFmpeg lists it among the videos.
    """
    from av.stream import Disposition

    videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    return next((s for s in videos if s.disposition & Disposition.default), videos[0] if videos else None)


def video_rate(stream: Any) -> float | None:
    """The plausible frame rate of PyAV's video stream, or None."""
    rate = stream.average_rate or stream.guessed_rate
    return plausible_rate(float(rate) if rate else None)


def decode_packet(packet: Any) -> tuple[list[Any], str | None]:
    """The frames that PyAV's packet completes, and what is wrong where it or one of them is damaged."""
    import av

    if packet.is_corrupt:
        return [], "a part of the data is missing"
    try:
        frames = packet.decode()
    except (av.error.FFmpegError, ValueError) as error:
        return [], _why(error)
    whole = [frame for frame in frames if not frame.is_corrupt]
    return whole, None if len(whole) == len(frames) else "a part of the picture is missing"


def _decode_video(path: Path, warnings: list[str]) -> Iterator[tuple[float | None, Frame]]:
    """Give the time and the pixels of each frame; what turns out to be amiss is added to ``warnings``."""
    import av

    done = damaged = 0
    why, first = "the file holds none that is whole", None
    try:
        with _container(path) as container:
            stream = video_stream(container)
            length = _Length(container, stream)
            for packet in container.demux():  # of all streams, for some files only state the length of all together
                length.add(packet)
                if packet.stream.index != stream.index:
                    continue
                frames, damage = decode_packet(packet)
                if damage is not None:
                    damaged, why = damaged + 1, damage
                for frame in frames:
                    first = frame.time if first is None else first
                    yield (None if frame.time is None or first is None else frame.time - first), shown(frame, stream)
                    done += 1
            if done and (missing := length.missing(done)):
                warnings.append(f"{path} {missing}: it was cut off, or is damaged")
            elif done and "mpegts" in container.format.name and all(path.stat().st_size % n for n in _TS_PACKETS):
                warnings.append(f"{path} ends after frame {done} amid a packet: it was cut off")
    except (av.error.FFmpegError, ValueError) as error:
        why = _why(error)
        if done:
            warnings.append(f"{path} cannot be read beyond frame {done}: {why}")
    finally:
        if done and damaged:
            packets = "1 packet is damaged and was" if damaged == 1 else f"{damaged} packets are damaged and were"
            warnings.append(f"{path}: {packets} left out ({why})")
    if not done:
        raise InputError(f"{path}: no frame can be decoded: {why}")


class _Length:
    """How much of a video its file declares, and how much of it was read."""

    def __init__(self, container: Any, stream: Any) -> None:
        names = set(container.format.name.split(","))
        self._rate = video_rate(stream)
        # The index of an MP4 file names each frame that is stored and used; its header also counts those edited out.
        self._indexed = len(stream.index_entries) if "mov" in names and stream.frames else None
        own = _own_seconds(stream, "avi" in names)
        every = None if container.duration is None else container.duration / 1e6
        self._declared = (every if own is None else own) if names & _STATE_THEIR_LENGTH else None
        self._stream, self._counts_all = stream.index, own is None
        self._packets = 0
        self._end: float | None = None

    def add(self, packet: Any) -> None:
        """Count a packet that was read."""
        if packet.pts is None:
            return
        if packet.stream.index == self._stream:
            self._packets += 1
        elif not self._counts_all:
            return
        end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
        self._end = end if self._end is None else max(self._end, end)

    def missing(self, done: int) -> str | None:
        """Where the video ends, in words, if that is before its declared end; ``done`` is the number of its frames."""
        if self._indexed is not None:
            short = self._packets < self._indexed
            return f"ends after {self._packets} of {self._indexed} frames" if short else None
        if self._declared is None or self._end is None:
            return None
        # The last frame of some files has no duration; the length of all streams together is also rounded.
        frames, least = (2.5, 0.1) if self._counts_all else (1.5, 0.0)
        tolerance = max(least, frames / self._rate) if self._rate else 0.1
        short = self._end < self._declared - tolerance
        return f"ends after frame {done}, at {self._end:.2f} of {self._declared:.2f} seconds" if short else None


def _own_seconds(stream: Any, avi: bool) -> float | None:
    """When a video ends by what the file says of it alone; None where only the length of all its streams is known."""
    rate = video_rate(stream)
    if avi and stream.frames and rate:  # FFmpeg derives the duration of an AVI file that was cut off from its size
        return float(stream.frames / rate)
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    try:
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")  # Matroska
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except (KeyError, ValueError):
        return None


def shown(frame: Any, stream: Any) -> Frame:
    """A decoded frame as a player shows it, (H, W, 3)."""
    shape = stream.sample_aspect_ratio
    width = round(frame.width * shape) if shape and _PIXEL_SHAPES[0] <= shape <= _PIXEL_SHAPES[1] else frame.width
    pixels: Frame = frame.to_ndarray(format="rgb24", width=max(1, width))
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            pixels = _turned(pixels, bytes(data))
    return pixels


def _turned(pixels: Frame, matrix: bytes) -> Frame:
    """Pixels turned and mirrored by a display matrix.

    The matrix maps a point (x, y) of the frame to (a x + c y, b x + d y) on the screen, y downwards. The nearest of the
    eight ways to turn and mirror a frame is taken.
    """
    a, b, _, c, d = struct.unpack_from("=5i", matrix)
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _container(path: Path) -> Any:
    import av
    import av.logging

    # FFmpeg logs some reasons only, such as a missing index; PyAV adds the log to its errors from this level on.
    before = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture():
            # A playlist may name other files and addresses; only this file is read.
            return av.open(str(path), container_options={"protocol_whitelist": "file"})
    finally:
        av.logging.set_level(before)


def _why(error: BaseException, log: bool = False) -> str:
    """What FFmpeg says of an error, without its number; with what it logged last, if asked for."""
    words = getattr(error, "strerror", None) or reason(error)
    logged = getattr(error, "log", None) if log else None
    return f"{words}: {logged[2].strip()}" if logged else words
