"""From decoded DICOM pixels to the frame of 8 bits that a viewer shows.

Gray goes the way of PS3.4 N.2: the modality transform, the values of interest, the presentation. What values are black
and white is the first of these that the file says:

1. the VOI LUT (PS3.3 C.11.2), the first where there are several;
2. the first window (C.11.2.1.2) and its function: LINEAR, LINEAR_EXACT or SIGMOID;
3. the range of the modality look-up table's entries (C.11.1);
4. SmallestImagePixelValue to LargestImagePixelValue (C.7.6.3.1), where more than 8 bits are stored;
5. all values that BitsStored allows.

Each holds for all frames of a clip, so that none flickers. Numbers that are empty or malformed count as missing.
Colour keeps the high 8 of its bits. ICC profiles, RealWorldValueMapping, overlays and PixelPaddingValue are not used:
nothing is scaled by the smallest and largest pixels found, which padding would spoil.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dicom_time import numbers
from .frames import Frame

_Floats = NDArray[np.float64]


_OF_A_FRAME = "FrameVOILUTSequence", "PixelValueTransformationSequence"
"""Functional groups that say how the values of a frame become gray (PS3.3 C.7.6.16.2.9 and C.7.6.16.2.10)."""


def with_groups(dataset: Any, index: int) -> Any:
    """The attributes of a frame of an enhanced clip, whose functional groups come before those of the file.

    Other files are returned as they are.
    """
    shared, every = (list(dataset.get(f"{name}FunctionalGroupsSequence") or []) for name in ("Shared", "PerFrame"))
    groups = shared[:1] + every[index : index + 1]
    items = [item for group in groups for name in _OF_A_FRAME for item in list(group.get(name) or [])[:1]]
    if not items:
        return dataset
    merged = copy.copy(dataset)
    for item in items:
        merged.update(item)
    return merged


class Display:
    """Makes frames of the pixels of one file.

    Raises:
        ValueError: a look-up table is malformed.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._bits = int(dataset.get("BitsStored") or dataset.BitsAllocated)
        self._signed = dataset.get("PixelRepresentation") == 1
        self._gray_of_value = _gray_scale(dataset, self._bits, self._signed)
        self._tables: dict[np.dtype[Any], NDArray[np.uint8]] = {}
        self._palette: NDArray[np.uint8] | None = None
        self._first = 0
        interpretation = dataset.get("PhotometricInterpretation")
        supplemental = dataset.get("PixelPresentation") in ("COLOR", "MIXED")
        self._supplemental = supplemental and "RedPaletteColorLookupTableDescriptor" in dataset
        if interpretation == "PALETTE COLOR" or self._supplemental:
            self._first, self._palette = _read_palette(dataset, self._signed)

    def __call__(self, pixels: NDArray[Any]) -> Frame:
        """A frame, (H, W) gray or (H, W, 3) RGB, of stored values, (H, W), or RGB, (H, W, 3)."""
        if pixels.ndim == 3:
            return self._colour(pixels)
        if self._palette is None:
            return self._gray(pixels)
        places = np.clip(pixels.astype(np.int64) - self._first, 0, len(self._palette) - 1)
        colour: Frame = self._palette[places]
        if not self._supplemental:
            return colour
        below = pixels < self._first  # gray, as the rest is colour (PS3.3 C.7.6.19)
        colour[below] = self._gray(pixels)[below][:, None]
        return colour

    def _gray(self, pixels: NDArray[Any]) -> Frame:
        if pixels.dtype.itemsize > 2:
            return self._gray_of_value(pixels)
        unsigned = np.dtype(f"u{pixels.dtype.itemsize}")
        if pixels.dtype not in self._tables:
            every = np.arange(256**unsigned.itemsize, dtype=unsigned)
            self._tables[pixels.dtype] = self._gray_of_value(every.view(pixels.dtype))
        frame: Frame = self._tables[pixels.dtype][pixels.view(unsigned)]
        return frame

    def _colour(self, pixels: NDArray[Any]) -> Frame:
        if pixels.dtype == np.uint8 and self._bits >= 8:
            return pixels
        return _to_bytes(pixels / (2.0**self._bits - 1))


def _gray_scale(dataset: Any, bits: int, signed: bool) -> Callable[[NDArray[Any]], Frame]:
    """The function from stored values to gray."""
    inverse = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
    inverse |= str(dataset.get("PresentationLUTShape", "")).strip() == "INVERSE"  # C.11.6; MONOCHROME1 demands it
    slope, intercept = ((numbers(dataset, f"Rescale{name}") or [0.0])[0] for name in ("Slope", "Intercept"))
    slope = slope or 1.0
    modality = _item(dataset, "ModalityLUTSequence")
    interest = _item(dataset, "VOILUTSequence")
    window = _window(dataset)
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    smallest, largest = (numbers(dataset, f"{name}ImagePixelValue") for name in ("Smallest", "Largest"))
    if modality is not None:
        low, high = 0.0, modality.white
    else:
        if bits > 8 and smallest and largest and low <= smallest[0] < largest[0] <= high:
            low, high = smallest[0], largest[0]
        low, high = sorted((low * slope + intercept, high * slope + intercept))

    def gray(stored: NDArray[Any]) -> Frame:
        values = stored * slope + intercept if modality is None else modality(stored)
        if interest is not None:
            shown = interest(values) / interest.white
        elif window is not None:
            shown = window(values)
        else:
            shown = (values - low) / (high - low)
        frame = _to_bytes(shown)
        return 255 - frame if inverse else frame

    return gray


def _to_bytes(shown: _Floats) -> Frame:
    """0 to 1 as 0 to 255, rounded."""
    return (np.clip(shown, 0, 1) * 255 + 0.5).astype(np.uint8)


def _window(dataset: Any) -> Callable[[_Floats], _Floats] | None:
    """The first window (PS3.3 C.11.2.1.2) as a function to 0 to 1 and beyond, or None where there is none."""
    centers, widths = numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth")
    if not centers or not widths:
        return None
    center, width = centers[0], widths[0]
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function == "SIGMOID" and width > 0:  # C.11.2.1.3.1
        return lambda values: 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -99, 99)))
    if function == "LINEAR_EXACT" and width > 0:  # C.11.2.1.3.2
        return lambda values: (values - center) / width + 0.5
    if width == 1:  # a threshold
        return lambda values: (values > center - 0.5).astype(np.float64)
    if width > 1:
        return lambda values: (values - (center - 0.5)) / (width - 1) + 0.5
    return None


class _LookUp:
    """An item of a ModalityLUTSequence or VOILUTSequence (PS3.3 C.11.1.1, C.11.2.1.1)."""

    def __init__(self, item: Any, little: bool, signed: bool) -> None:
        entries, self._first, bits = _descriptor(item, "LUTDescriptor", signed)
        data = item.LUTData
        if isinstance(data, bytes):
            words = "u1" if len(data) < 2 * entries else "<u2" if little else ">u2"
            table = np.frombuffer(data[: len(data) // 2 * 2], words)
        else:
            table = np.atleast_1d(np.asarray(data)).astype(np.int64) & 0xFFFF
        self._table = table[:entries].astype(np.float64)
        self.white = 2.0**bits - 1
        if not len(self._table) or not 1 <= bits <= 16:
            raise ValueError(f"a look-up table has {len(self._table)} entries of {bits} bits, expected 1 to 16 bits")

    def __call__(self, values: NDArray[Any]) -> _Floats:
        # Values below the first and above the last that are mapped take their entries.
        places = np.clip(np.floor(values.astype(np.float64)) - self._first, 0, len(self._table) - 1).astype(np.int64)
        found: _Floats = self._table[places]
        return found


def _item(dataset: Any, name: str) -> _LookUp | None:
    for item in list(dataset.get(name) or [])[:1]:
        if item.get("LUTData") and item.get("LUTDescriptor"):
            return _LookUp(item, dataset.original_encoding[1], dataset.get("PixelRepresentation") == 1)
    return None


def _descriptor(item: Any, name: str, signed: bool) -> tuple[int, int, int]:
    """Number of entries, first value that is mapped, and bits of an entry."""
    entries, first, bits = (int(value) for value in item[name].value)
    entries = entries & 0xFFFF or 1 << 16
    first = first - (1 << 16) if signed and first > 0x7FFF else first
    return entries, first if signed else first & 0xFFFF, bits


def _read_palette(dataset: Any, signed: bool) -> tuple[int, NDArray[np.uint8]]:
    """The first value that a palette maps, and its colours, (entries, 3) (PS3.3 C.7.6.3.1.5, C.7.9.2).

    A palette of 16 bits whose entries are all below 256 holds entries of 8 bits: this is a common fault of writers.
    """
    from pydicom.pixels.processing import apply_color_lut

    entries, first, _ = _descriptor(dataset, "RedPaletteColorLookupTableDescriptor", signed)
    if "RedPaletteColorLookupTableData" in dataset:
        little = dataset.original_encoding[1]
        columns = []
        for colour in ("Red", "Green", "Blue"):
            data = bytes(dataset[f"{colour}PaletteColorLookupTableData"].value)
            if len(data) >= 2 * entries:
                columns.append(np.frombuffer(data, "<u2" if little else ">u2", entries))
            elif len(data) >= entries:
                column = np.frombuffer(data[: len(data) // 2 * 2 if not little else None], np.uint8)
                columns.append((column if little else column.reshape(-1, 2)[:, ::-1].ravel())[:entries])
            else:
                raise ValueError(f"its palette has {len(data)} bytes for {entries} entries")
        table = np.stack(columns, 1)
    else:
        table = apply_color_lut(np.arange(first, first + entries), dataset)[:, :3]
    return first, (table >> 8 if table.max() > 255 else table).astype(np.uint8)
