"""DICOM ultrasound files, as frames of 8 bits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ht_kernels.errors import InputError, reason
from ht_kernels.packages import import_package
from ht_kernels.words import counted

from .dicom_decode import frames_of
from .dicom_display import Display, with_groups
from .dicom_file import declared_frames, find_pixels, opened, quiet
from .dicom_time import frame_times, numbers
from .frames import Box, Frame
from .scale import Scale, Spacing, common_spacing, plausible_spacing
from .source import Source

_ULTRASOUND = "1.2.840.10008.5.1.4.1.1."
_CLASSES = {_ULTRASOUND + end for end in ("3", "3.1", "6", "6.1", "6.2", "6.3")}
"""SOP classes of ultrasound images, clips and volumes, the retired ones included (PS3.4 B.5, PS3.6 A)."""


def open_dicom(path: Path) -> Source:
    """Open a DICOM ultrasound image or clip.

    The frames are counted in the pixel data; where NumberOfFrames says another number, a warning of the source tells.

    Raises:
        InputError: pydicom is not installed, or the file is damaged, has no whole image, is not ultrasound, or cannot
            be decoded by what is installed.
    """
    import_package("pydicom", "DICOM files need pydicom", "pydicom")
    try:
        with opened(path) as (dataset, file):
            _check_kind(path, dataset)
            pixels = find_pixels(file, *dataset.original_encoding)
            rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
            if pixels is None or rows < 1 or columns < 1:
                raise InputError(f"{path} is a DICOM file without images; {_why_none(dataset)}")
            count, _ = frames_of(file, dataset, pixels)
            if count < 1:
                raise InputError(f"{path} ends inside its first frame: the file is truncated")
            notes = _notes(path, declared_frames(dataset), count, pixels.whole)
            fps, times = frame_times(dataset, count)
            scan, scales = _scan(dataset), _scales(dataset)
            Display(dataset)  # malformed look-up tables are refused here
    except InputError:
        raise
    except Exception as error:  # pydicom raises errors of any kind on a damaged file
        raise InputError(f"{path} is a DICOM file that cannot be read: {reason(error)}") from error
    size = rows, columns
    names = (path.name,) if count == 1 else None
    return Source(path, "dicom", count, fps, size, lambda: _decode(path, count, times), scan, notes, scales, names)


def _check_kind(path: Path, dataset: Any) -> None:
    """Raise InputError unless a file is ultrasound by its modality, or by its SOP class where that says otherwise."""
    from pydicom.uid import UID

    meta = getattr(dataset, "file_meta", {})
    kind = UID(str(dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or ""))
    modality = str(dataset.get("Modality") or "")
    if modality not in ("US", "IVUS") and kind not in _CLASSES:
        found = modality or ("no modality" if not kind else "")
        named = f"{found} ({kind.name})" if found and kind else found or kind.name
        raise InputError(f"{path} is a DICOM file of {named}, expected ultrasound (US)")


def _why_none(dataset: Any) -> str:
    for keyword in ("FloatPixelData", "DoubleFloatPixelData"):
        if keyword in dataset:
            return f"its {keyword} is floating-point, of which nothing says what is white; expected PixelData"
    return "expected an ultrasound image or clip"


def _notes(path: Path, declared: int | None, count: int, whole: bool) -> list[str]:
    """What is amiss with the number of frames."""
    frames = counted(count, "frame")
    if declared is None or declared < 1:
        unsaid = f"{path} does not say how many frames it has: {count} were counted in its pixel data"
        notes = [unsaid] if count > 1 else []
    elif count < declared:
        return [f"{path} ends after {count} of {declared} frames: the file is truncated, or NumberOfFrames is wrong"]
    else:
        notes = [f"{path} has {frames}, and not {declared} as it says"] if count > declared else []
    return notes if whole else [*notes, f"{path} is truncated: it ends inside its pixel data, after {frames}"]


def _decode(path: Path, count: int, times: list[float] | None) -> Iterator[tuple[float | None, Frame]]:
    done = 0
    try:
        with opened(path) as (dataset, file):
            pixels = find_pixels(file, *dataset.original_encoding)
            if pixels is None:
                raise ValueError("its pixels are gone since it was opened")
            _, decode = frames_of(file, dataset, pixels)
            display = Display(dataset)
            for index in range(count):
                with quiet():
                    of_frame = with_groups(dataset, index)
                    show = display if of_frame is dataset else Display(of_frame)
                    frame = show(decode(file, index))
                yield (None if times is None else times[index]), frame
                done += 1
    except InputError:
        raise
    except Exception as error:
        where = f"frame {done + 1} of {count}" if count > 1 else "its image"
        raise InputError(f"{path}: {where} cannot be decoded: {reason(error)}") from error


_CENTIMETRES = 3
"""The code of centimetres among the physical units of an ultrasound region (PS3.3 C.8.5.5.1.15)."""


def _scan(dataset: Any) -> Box | None:
    """The largest region of two-dimensional tissue."""
    boxes = [box for box, _ in _tissue(dataset)]
    return max(boxes, key=lambda box: box.width * box.height, default=None)


def pixel_spacing(dataset: Any) -> Spacing | None:
    """The size of a pixel, where a file says one for all of a frame."""
    return common_spacing(_scales(dataset))


def _scales(dataset: Any) -> tuple[Scale, ...]:
    """The spacings of the regions of two-dimensional tissue, or where a file has no regions that of PixelSpacing."""
    if dataset.get("SequenceOfUltrasoundRegions"):
        return tuple(Scale(box, _region_spacing(region)) for box, region in _tissue(dataset))
    spacing = numbers(dataset, "PixelSpacing")  # between rows, then between columns (PS3.3 10.7.1.3)
    return (Scale(None, plausible_spacing(spacing[1], spacing[0])),) if len(spacing) == 2 else ()


def _region_spacing(region: Any) -> Spacing | None:
    """The spacing of an ultrasound region, or None where its units are not centimetres."""
    sides = [numbers(region, f"PhysicalDelta{axis}") for axis in "XY"]
    units = [region.get(f"PhysicalUnits{axis}Direction") for axis in "XY"]
    if units != [_CENTIMETRES] * 2 or not (sides[0] and sides[1]):
        return None
    return plausible_spacing(10 * sides[0][0], 10 * sides[1][0])


def _tissue(dataset: Any) -> list[tuple[Box, Any]]:
    """The ultrasound regions (PS3.3 C.8.5.5) that are two-dimensional tissue, each with its box.

    A region that is not inside the image is ignored: the image was cut or scaled, and its regions were not adapted.
    One that ends a pixel behind the image ends with it: some write the number of pixels for the last one.
    """
    found = []
    for region in dataset.get("SequenceOfUltrasoundRegions") or []:
        corners = [region.get(f"RegionLocation{name}") for name in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
        if (region.get("RegionSpatialFormat"), region.get("RegionDataType")) != (1, 1) or None in corners:
            continue
        left, top, right, bottom = map(int, corners)
        if 0 <= left < right <= dataset.Columns and 0 <= top < bottom <= dataset.Rows:
            right, bottom = min(right, dataset.Columns - 1), min(bottom, dataset.Rows - 1)
            found.append((Box(left, top, right - left + 1, bottom - top + 1), region))
    return found
