"""How large the classes of a mask are, and where: areas, diameters, centroids and boxes.

The area is that of all pixels of a class. The diameters, the centroid and the box are those of its largest connected
region, because a line between two lesions is no diameter, and the middle of two lies in neither. How many regions there
are, and the area of the largest, are told beside it. Pixels that share a corner are connected.

A pixel is a rectangle, and lengths go from corner to corner: a row of n pixels is n pixels long.

The long diameter is the longest line between two points of the region, and the short one the longest line across it at
a right angle, between two points of the outline, as RECIST 1.1 measures lesions (Eisenhauer et al., 2009). Both may
leave a region that is not convex. Lengths are taken in millimetres, so pixels that are not square need no care.

Both are computed exactly on the corners of pixels. Where the region has gaps, those within its rows, or within its
columns where the short diameter is nearer to these, count as filled for the short diameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ht_kernels.class_names import names_of
from ht_kernels.errors import InputError
from ht_kernels.media.frames import Box
from ht_kernels.media.scale import Scale, Spacing, as_spacing, common_spacing, spacing_at

from .diameters import diameters
from .regions import Runs, connect, find_runs, picture

Point = tuple[float, float]
"""A place (x, y) in pixels from the upper left corner of the frame."""


class Diameter(NamedTuple):
    """The length of a line, in the unit of its measurement, and the two ends of it, in pixels."""

    length: float
    ends: tuple[Point, Point]


@dataclass(frozen=True)
class Measurement:
    """The size and place of a class in a frame.

    Attributes:
        number: of the class, from 1 on.
        name: of the class.
        spacing: the width and height of a pixel in millimetres; None where these are not known.
        pixels: how many pixels have the class.
        regions: how many connected regions they are.
        area: of all these pixels, in mm² or, without a spacing, in pixels.
        region: the box around the largest region, in pixels; None where no pixel has the class, as all that follows.
        region_area: the area of the largest region. Of several as large as each other it is the uppermost.
        long: the longest diameter of the largest region, in mm or, without a spacing, in pixels.
        short: the longest diameter across it at a right angle.
        centroid: (x, y), the centre of gravity of the largest region, from the upper left corner of the frame, in mm
            or, without a spacing, in pixels.
    """

    number: int
    name: str
    spacing: Spacing | None
    pixels: int
    regions: int
    area: float
    region: Box | None = None
    region_area: float | None = None
    long: Diameter | None = None
    short: Diameter | None = None
    centroid: Point | None = None

    @property
    def unit(self) -> str:
        """The unit of lengths, ``mm`` or ``px``; areas are in the square of it."""
        return "px" if self.spacing is None else "mm"

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """(x, y, width, height) of the box around the largest region, in the unit of lengths."""
        if self.region is None:
            return None
        x, y = self.spacing or (1.0, 1.0)
        return self.region.x * x, self.region.y * y, self.region.width * x, self.region.height * y


def measure(
    mask: NDArray[Any],
    spacing: float | tuple[float, float] | None = None,
    class_names: Sequence[str] | None = None,
    scales: Sequence[Scale] = (),
) -> tuple[Measurement, ...]:
    """The measurements of each class of a mask but the background, in the order of their numbers.

    Args:
        mask: the class of each pixel, (H, W), uint8 or bool.
        spacing: the side of a pixel in millimetres, or its width and height; None where they are not known.
        class_names: of all classes, the background first; None for two classes, or as many as the mask has.
        scales: without ``spacing``, what a file says of parts of its frames. A class is measured in millimetres where
            the parts that it touches have one spacing.

    Raises:
        InputError: the mask has another shape or dtype, or a class without a name, or the spacing is no size of a
            pixel.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype not in (np.uint8, np.bool_):
        raise InputError(
            f"the mask is {mask.dtype} of shape {mask.shape}, expected the classes (H, W) as uint8 or bool"
        )
    if spacing is not None:
        scales = (Scale(None, as_spacing(spacing)),)
    runs = find_runs(mask.view(np.uint8))
    most = int(runs.value.max(initial=0))
    names = names_of(max(2, most + 1), None) if class_names is None else class_names
    if most >= len(names):
        raise InputError(f"the mask has the class {most}, and there are names of {len(names)} classes")
    root = connect(runs, mask.shape[1])
    return tuple(_measure_class(runs, root, number, names[number], scales) for number in range(1, len(names)))


def _measure_class(runs: Runs, root: NDArray[np.intp], number: int, name: str, scales: Sequence[Scale]) -> Measurement:
    chosen = runs.value == number
    runs, root = runs.of(chosen), root[chosen]
    if not len(root):
        return Measurement(number, name, common_spacing(scales), 0, 0, 0.0)
    spacing = spacing_at(scales, runs.box())
    sides = np.array(spacing or (1.0, 1.0))
    sizes = np.bincount(root, runs.pixels())
    region = runs.of(root == sizes.argmax())
    pixels, box = region.pixels(), region.box()
    middles = np.array([(pixels * (region.start + region.end)).sum(), (pixels * (2 * region.row + 1)).sum()])
    long, short = diameters(picture(region, box), sides)
    corner = np.array([box.x, box.y])
    return Measurement(
        number,
        name,
        spacing,
        int(sizes.sum()),
        int(np.count_nonzero(sizes)),
        float(sizes.sum() * sides.prod()),
        box,
        float(pixels.sum() * sides.prod()),
        _diameter(long, corner, sides),
        _diameter(short, corner, sides),
        _point(middles / (2 * pixels.sum()) * sides),
    )


def _diameter(ends: NDArray[np.float64], corner: NDArray[np.intp], sides: NDArray[np.float64]) -> Diameter:
    """A diameter with its ends (2, 2) in millimetres from the corner of a box, which is in pixels."""
    first, last = ends / sides + corner
    return Diameter(float(np.hypot(*(ends[1] - ends[0]))), (_point(first), _point(last)))


def _point(place: NDArray[np.float64]) -> Point:
    return float(place[0]), float(place[1])
