"""DICOM ultrasound files, as frames of 8 bits."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ht_kernels.errors import InputError, reason

from .frames import Box, Frame, plausible_rate
from .source import Source


def open_dicom(path: Path) -> Source:
    """Open a DICOM ultrasound image or clip.

    Raises:
        InputError: pydicom is not installed, or the file is damaged, has no image, or is not ultrasound.
    """
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
        raise InputError(f"{path} is a damaged DICOM file: {reason(error)}") from error
    if modality not in ("US", "IVUS"):
        found = f"{modality or 'no modality'} ({name})" if name else modality or "no modality"
        raise InputError(f"{path} is a DICOM file of {found}, expected ultrasound (US)")
    if rows < 1 or columns < 1 or count < 1:
        raise InputError(f"{path} is a DICOM file without images; expected an ultrasound image or clip")
    return Source(path, "dicom", count, fps, (rows, columns), lambda: _decode_dicom(path, dataset, count), scan)


def _decode_dicom(path: Path, dataset: Any, count: int) -> Iterator[tuple[float | None, Frame]]:
    from pydicom.pixels.utils import iter_pixels

    done = 0
    try:
        times = np.cumsum([float(t) for t in dataset.get("FrameTimeVector") or []]) / 1000
        timed = len(times) == count and bool(np.isfinite(times).all())
        for pixels in iter_pixels(path):
            frame = _dicom_frame(pixels, dataset)
            yield (float(times[done]) if timed else None), frame
            done += 1
    except Exception as error:
        if isinstance(error, InputError):
            raise
        where = f"frame {done + 1} of {count}" if count > 1 else "its image"
        raise InputError(f"{path}: {where} cannot be decoded: {reason(error)}") from error
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
