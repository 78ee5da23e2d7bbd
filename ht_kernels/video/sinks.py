"""Where results go: an H.264 video or PNG pictures, indexed PNG masks, and a table of labels."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ht_kernels.class_colors import color_of
from ht_kernels.errors import InputError
from ht_kernels.media.frames import Frame
from ht_kernels.packages import import_package

_TICKS = 90_000
"""Units of time in a second of a video."""

_LONGEST = 3600 * _TICKS
"""How long a frame is shown at most: damaged files state anything, and MP4 has 32 bits for it."""


class VideoSink:
    """Writes frames (H, W, 3) uint8 RGB as an H.264 video (mp4, yuv420p). Call ``close`` when done.

    Frames that come with times are shown at these; ``fps`` is how often the others follow.
    The first frame decides the size, and frames of another size are resized to it. H.264 needs even sizes, so a size
    that is odd gets one more row or column. After an OSError there is half a file, and nothing more is written to it.

    Raises:
        InputError: PyAV was built without an H.264 encoder.
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._rate = path, Fraction(fps).limit_denominator(1001)
        self._container: Any = None
        self._stream: Any = None
        self._ticks: int | None = None

    def write(self, frame: Frame, seconds: float | None = None) -> None:
        """Append one frame.

        Args:
            frame: (H, W, 3) uint8 RGB.
            seconds: when to show it; the first frame is shown at 0, and one whose time is not after that of the frame
                before right after it. None for the next moment by the frame rate.
        """
        import av

        if self._container is None:
            self._open(frame.shape[0], frame.shape[1])
        height, width = self._size
        if frame.shape[:2] != (height, width):
            frame = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        if self._ticks is None:
            wanted = 0
        elif seconds is None:
            wanted = self._ticks + round(_TICKS / self._rate)
        else:
            wanted = min(max(round(_TICKS * seconds), self._ticks + 1), self._ticks + _LONGEST)
        self._ticks = picture.pts = wanted
        picture.time_base = Fraction(1, _TICKS)
        self._mux(picture)

    def close(self) -> None:
        """Write what is pending, and the index."""
        if self._container is not None:
            self._mux(None)
            container, self._container = self._container, None
            container.close()

    def _mux(self, frame: Any) -> None:
        """Encode and write a frame, or for None what is pending."""
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except OSError:
            container, self._container = self._container, None
            with suppress(OSError):
                container.close()
            raise

    def _open(self, height: int, width: int) -> None:
        av = import_package("av", "video output needs PyAV", "av")
        self._size = height, width
        self._container = av.open(str(self._path), "w", options={"movflags": "+faststart"})
        try:
            self._stream = self._container.add_stream("libx264", rate=self._rate)
        except (ValueError, av.error.FFmpegError) as error:
            raise InputError("this PyAV has no H.264 encoder (libx264): pip install av brings one") from error
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, _TICKS)
        self._stream.options = {"crf": "18", "preset": "veryfast"}
        try:
            self._container.start_encoding()
        except OSError:
            self._container = None  # FFmpeg crashes if it is asked to go on without a header
            raise


class PictureSink:
    """Writes a PNG for each frame into a new folder.

    Args:
        folder: the folder, which is made.
        names: of the files, without ``.png``, by the numbers of the frames; None for ``00001`` for frame 0 and so on.
    """

    def __init__(self, folder: Path, names: Sequence[str] | None = None) -> None:
        folder.mkdir()
        self._folder, self._names = folder, names

    def write(self, frame: Frame, index: int) -> None:
        """Write frame ``index``, (H, W) or (H, W, 3) uint8."""
        self._save(Image.fromarray(frame), index)

    def _save(self, image: Image.Image, index: int) -> None:
        name = f"{index + 1:05}" if self._names is None else self._names[index]
        image.save(self._folder / f"{name}.png", compress_level=1)


class MaskSink(PictureSink):
    """Writes masks (H, W) uint8: pixel values are class indices, shown in the colours of the overlay by a palette."""

    def write(self, frame: Frame, index: int) -> None:
        """Write the mask of frame ``index``."""
        self._save(_indexed(frame), index)


def save_mask(mask: NDArray[np.uint8], path: Path) -> None:
    """Write the mask (H, W) of class indices as PNG, with the palette that :class:`MaskSink` describes."""
    _indexed(mask).save(path, compress_level=1)


def _indexed(mask: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(mask)
    image.putpalette([channel for number in range(256) for channel in color_of(number)])
    return image


class LabelSink:
    """Writes a CSV with a row for each frame: its number from 1 on, time and state, its class and all probabilities.

    A frame without a label has none in its row. Call ``close`` when done.
    """

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._table = csv.writer(self._file)
        self._columns = [f"{name}_probability" for name in class_names]
        self._table.writerow(["frame", "seconds", "state", "class", *self._columns])

    def write(
        self, index: int, seconds: float, state: str, label: str | None, probabilities: NDArray[np.float32] | None
    ) -> None:
        """Write the row of frame ``index``."""
        values = [""] * len(self._columns) if probabilities is None else [f"{value:.6f}" for value in probabilities]
        self._table.writerow([index + 1, f"{seconds:.3f}", state, label, *values])

    def close(self) -> None:
        """Write what is pending."""
        self._file.close()
