"""Files that frames come from: a DICOM clip, a video, a folder of images, one image. Live sources are in ``live``.

The content of a file decides what it is. Frames are decoded one by one, so that a long clip need not fit into memory.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ht_kernels.errors import InputError, first_line

from .crop import Box
from .frames import Frame, plausible_rate, video_rate
from .live import LiveSource, open_live

USUAL_FPS = 10.0
"""Frames per second of clips that do not say theirs."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".webp", ".gif")


@dataclass(frozen=True)
class Source:
    """A clip; iterating over it decodes its frames, each uint8, (H, W) gray or (H, W, 3) RGB.

    :meth:`timed` gives each with its time in the clip. Iterating raises InputError where the input turns out to be
    damaged or empty.

    Attributes:
        path: where it lies.
        kind: ``dicom``, ``video``, ``images`` or ``image``.
        frame_count: number of frames, None where the file does not say.
        fps: frames per second, None where the file does not say.
        size: (height, width) of the first frame.
        decode: starts decoding from the first frame, and gives frames, or pairs of a frame's time in seconds and the
            frame.
        scan: the part of a frame that is the scan, where a DICOM file says so; else None.
    """

    path: Path
    kind: str
    frame_count: int | None
    fps: float | None
    size: tuple[int, int]
    decode: Callable[[], Iterator[Frame | tuple[float, Frame]]]
    scan: Box | None = None

    def timed(self) -> Iterator[tuple[float, Frame]]:
        """Pairs of the seconds from the start, and the frame.

        The times are the file's own; without them they follow from its frame rate, and without that from 10 frames a
        second.
        """
        index = -1
        for index, decoded in enumerate(self.decode()):
            yield decoded if isinstance(decoded, tuple) else (index / (self.fps or USUAL_FPS), decoded)
        if index < 0:
            raise InputError(f"{self.path} has no frames")

    def __iter__(self) -> Iterator[Frame]:
        for _, frame in self.timed():
            yield frame


def open_source(path: str | Path) -> Source | LiveSource:
    """Open a DICOM ultrasound file, a video file, a folder of images, one image, a camera or an address.

    A camera is a V4L2 device such as ``/dev/video0``; an address is what has ``://`` in it, such as ``rtsp://...``.

    Raises:
        InputError: as :func:`open_file`, or the camera or address cannot be opened.
    """
    if "://" in str(path) or Path(path).is_char_device():
        return open_live(str(path))
    return open_file(path)


def open_file(path: str | Path) -> Source:
    """Open a DICOM ultrasound file, a video file, a folder of images, or one image.

    Raises:
        InputError: there is no such file, it is none of these, it is damaged, or the DICOM file is not ultrasound.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    if not path.exists():
        raise InputError(f"there is no file or folder {path}")
    if not path.is_file():
        raise InputError(f"{path} is neither a file nor a folder")
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise InputError(f"{path} is empty")
    if head[128:] == b"DICM":
        return _open_dicom(path)
    if path.suffix.lower() in IMAGE_SUFFIXES or _is_image(path):
        return _open_image(path)
    return _open_video(path)


def _open_folder(path: Path) -> Source:
    files = sorted((p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()), key=_natural)
    if not files:
        raise InputError(f"{path} has no images; expected files that end in {', '.join(IMAGE_SUFFIXES)}")
    first = next(_decode_image(files[0]))

    def decode() -> Iterator[Frame]:
        for file in files:
            yield next(_decode_image(file))

    return Source(path, "images", len(files), None, _size(first), decode)


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """A sort key that puts frame2 before frame10."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def _is_image(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path):
            return True
    except Exception:
        return False


def _open_image(path: Path) -> Source:
    first = next(_decode_image(path))
    return Source(path, "image", None, None, _size(first), lambda: _decode_image(path))


def _decode_image(path: Path) -> Iterator[Frame]:
    """The frames of an image file: one, or all of an animation or a multi-page TIFF."""
    from PIL import Image, ImageSequence

    try:
        with Image.open(path) as image:
            for page in ImageSequence.Iterator(image):
                if page.mode.startswith("I;16"):
                    yield (np.asarray(page, dtype=np.uint16) >> 8).astype(np.uint8)
                else:
                    yield np.asarray(page.convert("L" if page.mode in ("1", "L", "LA") else "RGB"))
    except Exception as error:  # PIL raises errors of any kind on a damaged file
        raise InputError(f"{path} cannot be read as an image: {first_line(error)}") from error


def _open_dicom(path: Path) -> Source:
    try:
        import pydicom
    except ImportError as error:
        raise InputError("DICOM files need pydicom, which is not installed: pip install pydicom") from error

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # pydicom warns of values that the standard forbids
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
        modality, name = str(dataset.get("Modality", "")), dataset.get("SOPClassUID", pydicom.uid.UID("")).name
        rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
        count, fps, scan = int(dataset.get("NumberOfFrames") or 1), _dicom_fps(dataset), _dicom_scan(dataset)
    except Exception as error:
        raise InputError(f"{path} is a damaged DICOM file: {first_line(error)}") from error
    if modality not in ("US", "IVUS"):
        found = f"{modality or 'no modality'} ({name})" if name else modality or "no modality"
        raise InputError(f"{path} is a DICOM file of {found}, expected ultrasound (US)")
    if rows < 1 or columns < 1 or count < 1:
        raise InputError(f"{path} is a DICOM file without images; expected an ultrasound image or clip")
    return Source(path, "dicom", count, fps, (rows, columns), lambda: _decode_dicom(path, dataset, count), scan)


def _decode_dicom(path: Path, dataset: Any, count: int) -> Iterator[Frame | tuple[float, Frame]]:
    from pydicom.pixels.utils import iter_pixels

    done = 0
    try:
        times = np.cumsum([float(t) for t in dataset.get("FrameTimeVector") or []]) / 1000
        timed = len(times) == count and bool(np.isfinite(times).all())
        for pixels in iter_pixels(path):
            frame = _dicom_frame(pixels, dataset)
            yield (float(times[done]), frame) if timed else frame
            done += 1
    except Exception as error:
        if isinstance(error, InputError):
            raise
        where = f"frame {done + 1} of {count}" if count > 1 else "its image"
        raise InputError(f"{path}: {where} cannot be decoded: {first_line(error)}") from error
    if done < count:
        raise InputError(f"{path} ends after {done} of {count} frames: the file is truncated")


def _dicom_frame(pixels: NDArray[Any], dataset: Any) -> Frame:
    """Decoded pixels as uint8: window and rescale applied, MONOCHROME1 inverted, palettes resolved."""
    interpretation = dataset.PhotometricInterpretation
    if interpretation == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut

        color = apply_color_lut(pixels, dataset)
        return (color >> 8).astype(np.uint8) if color.dtype == np.uint16 else color
    if pixels.ndim == 3 and pixels.dtype == np.uint8:
        return pixels
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    center, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if pixels.dtype == np.uint8 and (slope, intercept, center) == (1, 0, None):
        frame = pixels
    else:
        bits, signed = int(dataset.BitsStored), int(dataset.get("PixelRepresentation", 0))
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        low, high = low * slope + intercept, high * slope + intercept
        if center is not None and width is not None and width > 1:  # PS3.3 C.11.2.1.2.1
            low, high = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
        values = pixels.astype(np.float32) * slope + intercept
        frame = np.clip((values - low) * (255 / (high - low)) + 0.5, 0, 255).astype(np.uint8)
    return 255 - frame if interpretation == "MONOCHROME1" else frame


def _dicom_fps(dataset: Any) -> float | None:
    for name, per_second in (("CineRate", True), ("RecommendedDisplayFrameRate", True), ("FrameTime", False)):
        value = _first(dataset.get(name))
        rate = plausible_rate(value if per_second or not value else 1000 / value)
        if rate is not None:
            return rate
    vector = [float(t) for t in dataset.get("FrameTimeVector") or [] if float(t) > 0]
    return plausible_rate(1000 * len(vector) / sum(vector)) if vector else None


def _dicom_scan(dataset: Any) -> Box | None:
    """The largest of the ultrasound regions (PS3.3 C.8.5.5) that are two-dimensional tissue.

    A region that is not inside the image is ignored: the image was cut or scaled, and its regions were not adapted.
    """
    boxes = []
    for region in dataset.get("SequenceOfUltrasoundRegions") or []:
        corners = [region.get(f"RegionLocation{name}") for name in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
        if (region.get("RegionSpatialFormat"), region.get("RegionDataType")) != (1, 1) or None in corners:
            continue
        left, top, right, bottom = map(int, corners)
        if 0 <= left < right < dataset.Columns and 0 <= top < bottom < dataset.Rows:
            boxes.append(Box(left, top, right - left + 1, bottom - top + 1))
    return max(boxes, key=lambda box: box.width * box.height, default=None)


def _first(value: Any) -> float | None:
    """A DICOM number, or the first of several."""
    if value is None or value == "":
        return None
    return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)


def _open_video(path: Path) -> Source:
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
            f"{path} is neither an ultrasound DICOM file, nor a video or an image that can be read "
            f"({first_line(error)})"
        ) from error
    return Source(path, "video", count, fps, size, lambda: _decode_video(path, count))


def _decode_video(path: Path, count: int | None) -> Iterator[Frame | tuple[float, Frame]]:
    import av

    done = 0
    try:
        with _container(path) as container:
            first = None
            for frame in container.decode(video=0):
                pixels = frame.to_ndarray(format="rgb24")
                first = frame.time if first is None else first
                yield pixels if frame.time is None or first is None else (frame.time - first, pixels)
                done += 1
    except (av.error.FFmpegError, ValueError) as error:
        raise InputError(f"{path}: frame {done + 1} cannot be decoded: {first_line(error)}") from error
    if count is not None and done < count:
        raise InputError(f"{path} ends after {done} of {count} frames: the file is truncated")


def _container(path: Path) -> Any:
    import av

    # A playlist may name other files and addresses; only this file is read.
    return av.open(str(path), container_options={"protocol_whitelist": "file"})


def _size(frame: Frame) -> tuple[int, int]:
    return frame.shape[0], frame.shape[1]
