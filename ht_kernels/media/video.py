"""Video files, by FFmpeg's libraries, as RGB frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ht_kernels.errors import InputError, reason

from .frames import Frame, plausible_rate
from .source import Source


def open_video(path: Path) -> Source:
    """Open a video file.

    Raises:
        InputError: PyAV is not installed, or the file is no video that can be decoded.
    """
    try:
        import av
    except ImportError as error:
        raise InputError("video files need PyAV, which is not installed: pip install av") from error

    try:
        with _container(path) as container:
            if not container.streams.video or container.format.name == "tty":
                raise InputError(f"{path} has no video stream")
            stream = container.streams.video[0]
            if not getattr(stream, "height", 0):  # a codec that FFmpeg does not know
                raise InputError(f"{path} has a video stream that cannot be decoded")
            fps = video_rate(stream)
            count, size = stream.frames or None, (stream.height, stream.width)
    except (av.error.FFmpegError, ValueError) as error:
        raise InputError(
            f"{path} is neither an ultrasound DICOM file, nor a video or an image that can be read ({reason(error)})"
        ) from error
    return Source(path, "video", count, fps, size, lambda: _decode_video(path, count))


def video_rate(stream: Any) -> float | None:
    """The plausible frame rate of PyAV's video stream, or None."""
    rate = stream.average_rate or stream.guessed_rate
    return plausible_rate(float(rate) if rate else None)


def _decode_video(path: Path, count: int | None) -> Iterator[tuple[float | None, Frame]]:
    import av

    done = 0
    try:
        with _container(path) as container:
            first = None
            for frame in container.decode(video=0):
                pixels = frame.to_ndarray(format="rgb24")
                first = frame.time if first is None else first
                yield (None if frame.time is None or first is None else frame.time - first), pixels
                done += 1
    except (av.error.FFmpegError, ValueError) as error:
        raise InputError(f"{path}: frame {done + 1} cannot be decoded: {reason(error)}") from error
    if count is not None and done < count:
        raise InputError(f"{path} ends after {done} of {count} frames: the file is truncated")


def _container(path: Path) -> Any:
    import av

    # A playlist may name other files and addresses; only this file is read.
    return av.open(str(path), container_options={"protocol_whitelist": "file"})
