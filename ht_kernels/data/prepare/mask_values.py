"""Masks of several classes: which values a data set's masks have, and which class each value is.

A value is a gray level, the index of a palette, or a colour. A mask whose edges were compressed or resized has many
values and two classes: :mod:`ht_kernels.media.mask` says how these are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ht_kernels.errors import InputError, reason
from ht_kernels.media.image import is_image, opened, upright
from ht_kernels.media.mask import flat, read_mask, values_of
from ht_kernels.media.opening import read_image

from ..layout import read_mask_of
from .item import Mask

MOST_CLASSES = 32
"""Training takes masks of at most so many classes, the background among them."""

_COLOUR = 1 << 32
"""Red, green and blue are a number above this one; a colour without hue is its gray level."""
_MOST_VALUES = 64
"""A mask of more values is a photograph, or was compressed."""
_FEW_VALUES = 8
"""A mask whose edges are blurred has more values, mostly."""
_NEAR = 1 / 16
"""Areas in a compressed mask may differ by this share of the value inside."""


@dataclass
class Survey:
    """What the masks of a data set hold.

    Attributes:
        counts: in how many masks each value is.
        palette: the colour of each index, such as ``#ff0000``, where masks have a palette.
        soft: masks of two values with others along their edges, which are not counted.
        thin: of these, masks that nothing has compressed and that have few values, so that some may be thin classes.
    """

    counts: Counter[float] = field(default_factory=Counter)
    palette: dict[float, str] = field(default_factory=dict)
    soft: list[Path] = field(default_factory=list)
    thin: list[Path] = field(default_factory=list)

    def listed(self) -> list[str]:
        """The values in ascending order, as messages say them."""
        return [self._said(value) for value in sorted(self.counts)]

    def counted(self) -> str:
        """The values and the number of masks that have each."""
        parts = [f"{self._said(value)} (in {count})" for value, count in sorted(self.counts.items())]
        return ", ".join(parts)

    def doubts(self) -> list[str]:
        """A note on masks in which what was taken for blur may be a class."""
        if not self.thin:
            return []
        more = f" and {len(self.thin) - 1} more" if len(self.thin) > 1 else ""
        return [
            f"the mask {self.thin[0]}{more} has values along its edges that were taken for blur: if they are a class, "
            "name all classes with --classes"
        ]

    def _said(self, value: float) -> str:
        if value > _COLOUR:
            return f"#{int(value) - _COLOUR:06x}"
        return f"{value:g} ({self.palette[value]})" if value in self.palette else f"{value:g}"


@dataclass(frozen=True)
class Coding:
    """Which class each value of a mask is."""

    numbers: Mapping[float, int]

    def read(self, path: Path, image: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
        """The classes (height, width) uint8 in the mask of an image whose (width, height) is ``size``.

        Raises:
            InputError: the mask is missing, damaged or of another size, or has a value that is no class.
        """
        values, _ = read_values(path)
        height, width = values.shape
        if (width, height) != size:
            raise InputError(
                f"the mask {path} is {width}x{height} pixels, but its image {image} is {size[0]}x{size[1]}; expected "
                "the same"
            )
        found, places = np.unique(values, return_inverse=True)
        unknown = [value for value in found.tolist() if value not in self.numbers]
        if unknown:
            raise InputError(
                f"the mask {path} has the value {unknown[0]:g}, which is no class; expected "
                f"{', '.join(f'{value:g}' for value in sorted(self.numbers))}"
            )
        classes = np.array([self.numbers[value] for value in found.tolist()], np.uint8)
        return classes[places].reshape(values.shape)


def coding_of(masks: Sequence[Path], classes: Sequence[str]) -> tuple[Callable[[Path], Mask], list[str]]:
    """How the mask at a path is read, and a note that says which class each value is.

    Values below the number of classes are the numbers of classes. Otherwise there are as many values as classes, and
    they get the classes in ascending order. Without names masks have two values.

    Raises:
        InputError: a mask is missing or damaged or has too many values, or the values are not as many as the classes.
    """
    survey = survey_of(masks, len(classes))
    values = sorted(survey.counts)
    if len(values) <= 2 and (not classes or (survey.soft and len(classes) == 2)):
        return lambda path: partial(read_mask_of, path), survey.doubts()
    if not classes:
        raise InputError(
            f"the {len(masks)} masks have {len(values)} values: {survey.counted()}; name the class of each in this "
            "order, such as --classes background,lesion,vessel"
        )
    if survey.soft:
        raise InputError(
            f"the mask {survey.soft[0]} has other values along its edges, as compressed and resized masks have, and "
            f"with {len(classes)} classes each value is one: save it as PNG with one value for each class"
        )
    if all(value in range(len(classes)) for value in values):
        numbers = {float(number): number for number in range(len(classes))}
        survey.counts.update(dict.fromkeys(numbers, 0))
    elif len(values) == len(classes):
        numbers = {value: number for number, value in enumerate(values)}
    else:
        raise InputError(
            f"the {len(masks)} masks have {len(values)} values: {survey.counted()}; --classes names "
            f"{len(classes)}: {', '.join(classes)}; expected a name for each value, in this order"
        )
    said = ", ".join(f"{value} = {name}" for value, name in zip(survey.listed(), classes, strict=True))
    coding = Coding(numbers)
    return lambda path: partial(coding.read, path), [f"values in masks: {said}"]


def survey_of(masks: Sequence[Path], classes: int = 0) -> Survey:
    """Look at every mask.

    Args:
        masks: the files.
        classes: how many classes the user named; 0 for none. A mask that nothing has compressed and that has no more
            values has a class for each, however thin. So has a mask with a palette.

    Raises:
        InputError: a mask is missing or damaged or has too many values, or palettes differ.
    """
    survey = Survey()
    for path in masks:
        values, palette = read_values(path)
        found = np.unique(values)
        sharp = bool(palette) or (len(found) <= classes and not _is_lossy(path))
        if len(found) > 2 and not sharp and _is_soft(path, values, found):
            survey.soft.append(path)
            if len(found) <= _FEW_VALUES and not _is_lossy(path):
                survey.thin.append(path)
            continue
        if len(found) > _MOST_VALUES:
            raise InputError(f"the mask {path} has {len(found)} values, expected one for each class")
        survey.counts.update(found.tolist())
        for value in found.tolist():
            colour = palette.get(value)
            if colour is not None and survey.palette.setdefault(value, colour) != colour:
                raise InputError(
                    f"the mask {path} has {colour} at {value:g} of its palette, and others have {survey.palette[value]}"
                    "; save masks with one palette, or in gray"
                )
    return survey


def read_values(path: Path) -> tuple[NDArray[np.float64], dict[float, str]]:
    """The values (height, width) of a mask, and the colour of each index where it has a palette.

    Raises:
        InputError: the file is missing or damaged, or has several pictures.
    """
    if not is_image(path):  # DICOM, or read_image says why it has no picture
        return _numbers(np.asarray(read_image(path))), {}
    palette: dict[float, str] = {}
    try:
        with opened(path) as image:
            pictures = getattr(image, "n_frames", 1)
            if image.mode == "P" and not image.has_transparency_data:
                values = np.asarray(upright(image)).astype(np.float64)
                colours = np.array(image.getpalette("RGB")).reshape(-1, 3)
                palette = {float(i): "#{:02x}{:02x}{:02x}".format(*colour) for i, colour in enumerate(colours)}
            else:
                values = _numbers(values_of(image))
    except Exception as error:  # Pillow raises errors of any kind on a damaged file
        raise InputError(f"{path} cannot be read as an image: {reason(error)}") from error
    if pictures > 1:
        raise InputError(f"{path} has {pictures} pictures, expected one mask")
    return values, palette


def _numbers(values: NDArray[Any]) -> NDArray[np.float64]:
    """Gray levels (H, W), or colours (H, W, 3) as one number each."""
    if values.ndim == 2:
        return values.astype(np.float64)
    red, green, blue = np.moveaxis(values.astype(np.int64), -1, 0)
    gray = (red == green) & (green == blue)
    codes: NDArray[np.int64] = np.where(gray, red, _COLOUR + (red << 16) + (green << 8) + blue)
    return codes.astype(np.float64)


def _is_soft(path: Path, values: NDArray[np.float64], found: NDArray[np.float64]) -> bool:
    """Whether a mask has two values, and others only along edges: no pixel among equal ones has a third value."""
    try:
        inside = read_mask(path).astype(bool)
    except InputError:
        if len(found) > _MOST_VALUES:
            raise
        return False
    near = 0.0
    if _is_lossy(path):
        values = _brightest(values)
        near = float(np.median(values[inside])) * _NEAR
    levels, counts = np.unique(values[inside], return_counts=True)
    third = flat(values) & (values > near) & (abs(values - levels[counts.argmax()]) > near)
    return not third.any()


def _brightest(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gray levels as they are, and of colours the brightest channel."""
    codes = values.astype(np.int64)
    channels = np.stack([codes >> 16 & 255, codes >> 8 & 255, codes & 255])
    brightest: NDArray[np.float64] = np.where(codes > _COLOUR, channels.max(0), values)
    return brightest


def _is_lossy(path: Path) -> bool:
    if not is_image(path):
        return False
    with opened(path) as image:
        return image.format not in ("PNG", "BMP", "TIFF", "GIF", "PPM")
