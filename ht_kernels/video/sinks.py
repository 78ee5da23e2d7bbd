"""Where results go: an H.264 video, indexed PNG masks, and a folder that appears whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ht_kernels.errors import InputError

from .frames import Frame
from .overlay import COLORS


class OutputFolder:
    """A folder whose content appears under its final names only when everything is written.

    ``with OutputFolder(path) as folder:`` gives a hidden folder beside the final one. On leaving, its entries take
    their places, over entries of the same name from before; on an error or an interrupt it vanishes.

    Raises:
        InputError: the path is a file, or cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._hidden: Path | None = None

    def __enter__(self) -> Path:
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"the output {self.path} is a file, expected a folder")
        if self.path.is_dir() and not os.access(self.path, os.W_OK):
            raise InputError(f"the output folder {self.path} cannot be written")
        parent = self.path.absolute().parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            self._hidden = Path(tempfile.mkdtemp(prefix=f".{self.path.name}-", dir=parent))
            self._hidden.chmod(0o777 & ~_umask())
        except OSError as error:
            raise InputError(f"the output folder {self.path} cannot be made: {error.strerror}") from error
        return self._hidden

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._hidden is not None
        try:
            if kind is None:
                self._publish(self._hidden)
        finally:
            shutil.rmtree(self._hidden, ignore_errors=True)

    def _publish(self, hidden: Path) -> None:
        if not self.path.exists():
            hidden.rename(self.path)
            return
        for entry in sorted(hidden.iterdir()):
            target = self.path / entry.name
            if target.is_dir():
                shutil.rmtree(target)
            entry.replace(target)


class VideoSink:
    """An H.264 video (mp4, yuv420p), frames (H, W, 3) uint8 RGB; odd sizes get one more row or column.

    Frames of another size than the first are resized to it. Call ``close`` when done.

    Raises:
        InputError: PyAV was built without an H.264 encoder.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._rate = path, Fraction(fps).limit_denominator(1001)
        self._container: Any = None
        self._stream: Any = None

    def write(self, frame: Frame) -> None:
        """Append one frame."""
        import av

        if self._container is None:
            self._open(frame.shape[0], frame.shape[1])
        height, width = self._size
        if frame.shape[:2] != (height, width):
            frame = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        for packet in self._stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
            self._container.mux(packet)

    def close(self) -> None:
        """Write what is pending, and the index."""
        if self._container is not None:
            for packet in self._stream.encode():
                self._container.mux(packet)
            self._container.close()

    def _open(self, height: int, width: int) -> None:
        try:
            import av
        except ImportError as error:
            raise InputError("video output needs PyAV, which is not installed: pip install av") from error

        self._size = height, width
        self._container = av.open(str(self._path), "w", options={"movflags": "+faststart"})
        try:
            self._stream = self._container.add_stream("libx264", rate=self._rate)
        except (ValueError, av.error.FFmpegError) as error:
            raise InputError("this PyAV has no H.264 encoder (libx264): pip install av brings one") from error
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": "18", "preset": "veryfast"}


class MaskSink:
    """An indexed PNG per frame, ``00001.png`` for frame 0; pixel values are class indices, the palette shows them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._palette = [channel for color in COLORS for channel in color]

    def write(self, mask: NDArray[np.uint8], index: int) -> None:
        """Write the mask (H, W) of class indices of frame ``index``."""
        image = Image.fromarray(mask)
        image.putpalette(self._palette)
        image.save(self._folder / f"{index + 1:05}.png", compress_level=1)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a report."""
    path.write_text(json.dumps(values, indent=2) + "\n")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
