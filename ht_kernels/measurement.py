"""How large the classes of a mask are, and where: areas, diameters, centroids and boxes.

The area is that of all pixels of a class. The diameters, the centroid and the box are those of its largest connected
region, because a line between two lesions is no diameter, and the middle of two lies in neither. How many regions there
are, and the area of the largest, are told beside it. Pixels that share a corner are connected.

A pixel is a rectangle, and lengths go from corner to corner: a row of n pixels is n pixels long.

The long diameter is the longest line between two points of the region, and the short one the longest line across it at
a right angle, between two points of the outline, as RECIST 1.1 measures lesions (Eisenhauer et al., 2009). Both may
leave a region that is not convex. Lengths are taken in millimetres, so pixels that are not square need no care.

All is computed on runs of pixels in a row, so that a mask of some regions costs little more than reading it, and noise
does not cost seconds.
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
    runs = _runs(mask.view(np.uint8))
    most = int(runs.value.max(initial=0))
    names = names_of(max(2, most + 1), None) if class_names is None else class_names
    if most >= len(names):
        raise InputError(f"the mask has the class {most}, and there are names of {len(names)} classes")
    root = _connect(runs, mask.shape[1])
    return tuple(_measure_class(runs, root, number, names[number], scales) for number in range(1, len(names)))


def largest_region(mask: NDArray[np.bool_]) -> tuple[Box, NDArray[np.bool_]]:
    """The largest connected region of a mask (H, W) that is not empty: the box around it, and its pixels in the box."""
    runs = _runs(mask.view(np.uint8))
    root = _connect(runs, mask.shape[1])
    region = runs.of(root == np.bincount(root, runs.pixels()).argmax())
    return region.box(), _picture(region, region.box())


class _Runs(NamedTuple):
    """Runs of pixels of one class in a row, in the order of reading: (n,) each, the ends exclusive."""

    row: NDArray[np.intp]
    start: NDArray[np.intp]
    end: NDArray[np.intp]
    value: NDArray[np.uint8]

    def of(self, chosen: NDArray[np.bool_]) -> _Runs:
        return _Runs(self.row[chosen], self.start[chosen], self.end[chosen], self.value[chosen])

    def pixels(self) -> NDArray[np.intp]:
        """The pixels of each run."""
        length: NDArray[np.intp] = self.end - self.start
        return length

    def box(self) -> Box:
        """The box around all runs, of which there must be one."""
        left, top = int(self.start.min()), int(self.row[0])
        return Box(left, top, int(self.end.max()) - left, int(self.row[-1]) + 1 - top)


def _runs(mask: NDArray[np.uint8]) -> _Runs:
    """The runs of all classes but the background of a mask (H, W)."""
    height, width = mask.shape
    padded = np.zeros(1 + height * (width + 1), np.uint8)  # a run ends at the end of its row
    padded[1:].reshape(height, width + 1)[:, :width] = mask
    changes = np.flatnonzero(padded[1:] != padded[:-1])
    values = padded[1:][changes]
    inside = np.flatnonzero(values)
    row, start = np.divmod(changes[inside], width + 1)
    return _Runs(row, start, changes[inside + 1] - row * (width + 1) if len(inside) else start, values[inside])


def _connect(runs: _Runs, width: int) -> NDArray[np.intp]:
    """For each run the number of the first run of its connected region, (n,).

    Every run that meets an earlier one of its class is hung below it, then all chains are cut short by following them
    twice as far each time, and the same is done with what still meets, until nothing does. The first run of a region
    is never hung below another, so it names the region.
    """
    line = width + 1
    starts, ends = runs.row * line + runs.start, runs.row * line + runs.end
    first = np.searchsorted(ends, starts + line, "left")  # of the runs below that meet a run, at a corner at least
    count = np.searchsorted(starts, ends + line, "right") - first
    above = np.repeat(np.arange(len(starts)), count)
    below = np.arange(len(above)) - np.repeat(np.cumsum(count) - count - first, count)
    same = runs.value[above] == runs.value[below]
    above, below = above[same], below[same]
    root = np.arange(len(starts))
    while len(above):
        np.minimum.at(root, np.maximum(above, below), np.minimum(above, below))
        while not np.array_equal(further := root[root], root):
            root = further
        above, below = root[above], root[below]
        apart = above != below
        above, below = above[apart], below[apart]
    return root


def _measure_class(runs: _Runs, root: NDArray[np.intp], number: int, name: str, scales: Sequence[Scale]) -> Measurement:
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
    long, short = _diameters(_picture(region, box), sides)
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


def _picture(region: _Runs, box: Box) -> NDArray[np.bool_]:
    """The pixels of a region in its box, bool (H, W)."""
    line = box.width + 1
    steps = np.zeros(box.height * line, np.int8)
    places = (region.row - box.y) * line - box.x
    steps[places + region.start] = 1
    steps[places + region.end] = -1
    return np.cumsum(steps, dtype=np.int8).reshape(box.height, line)[:, :-1].view(np.bool_)


def _diameters(region: NDArray[np.bool_], sides: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The ends (2, 2) of the long and the short diameter of a connected region (H, W), in millimetres in its box.

    The long one joins two corners of the convex hull, of which a region N pixels wide has no more than about
    3.5 N^(2/3), so that all pairs are soon compared.
    """
    by_rows = _outline(region)
    hull = _hull(by_rows) * sides
    far = ((hull[:, None] - hull) ** 2).sum(2)
    long = hull[list(np.unravel_index(far.argmax(), far.shape))]
    x, y = long[1] - long[0]
    # The short diameter goes along (-y, x). The outline is taken by columns where it is nearer to these.
    outline = by_rows if abs(y / sides[0]) > abs(x / sides[1]) else _outline(region.T)[:, ::-1]
    return long, _across(outline * sides, np.array([x, y]) / np.hypot(x, y))


def _outline(region: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The corners (n, 2) of the outline, as (x, y), of a connected region whose gaps within rows are filled."""
    left = region.argmax(1)
    right = region.shape[1] - np.ascontiguousarray(region[:, ::-1]).argmax(1)
    y = np.arange(len(left))
    down = np.stack([left, y, left, y + 1], 1).reshape(-1, 2)
    up = np.stack([right, y, right, y + 1], 1).reshape(-1, 2)[::-1]
    return np.concatenate([down, up])


def _hull(outline: NDArray[np.intp]) -> NDArray[np.intp]:
    """The corners (m, 2) of the convex hull of an outline that goes down on one side and up on the other."""
    half = len(outline) // 2
    return np.array([*_half_hull(outline[:half].tolist()), *_half_hull(outline[half:].tolist())])


def _half_hull(points: list[list[int]]) -> list[list[int]]:
    """The points of a chain on whose right hand all others lie (Andrew's monotone chain, in whole numbers)."""
    kept: list[list[int]] = []
    for x, y in points:
        while len(kept) > 1:
            (x0, y0), (x1, y1) = kept[-2:]
            if (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) < 0:
                break
            kept.pop()
        kept.append([x, y])
    return kept


def _across(outline: NDArray[np.float64], along: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ends (2, 2) of the longest line across an outline (n, 2), at a right angle to the unit vector ``along``.

    Between two corners of the outline the length of the line across is the largest of linear functions, so it is
    longest at a corner. At each corner it goes from the lowest to the highest edge there.
    """
    across = np.array([-along[1], along[0]])
    t, u = outline @ along, outline @ across
    t1, u1 = np.roll(t, -1), np.roll(u, -1)
    sloped = t != t1
    t, u, t1, u1 = t[sloped], u[sloped], t1[sloped], u1[sloped]
    places = np.unique(t)
    first = np.searchsorted(places, np.minimum(t, t1), "left")
    count = np.searchsorted(places, np.maximum(t, t1), "right") - first
    edge = np.repeat(np.arange(len(t)), count)
    place = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count - first, count)
    height = u[edge] + (places[place] - t[edge]) * ((u1 - u) / (t1 - t))[edge]
    low, high = np.full(len(places), np.inf), np.full(len(places), -np.inf)
    np.minimum.at(low, place, height)
    np.maximum.at(high, place, height)
    best = (high - low).argmax()
    ends: NDArray[np.float64] = places[best] * along + np.array([[low[best]], [high[best]]]) * across
    return ends


def _diameter(ends: NDArray[np.float64], corner: NDArray[np.intp], sides: NDArray[np.float64]) -> Diameter:
    """A diameter with its ends (2, 2) in millimetres from the corner of a box, which is in pixels."""
    first, last = ends / sides + corner
    return Diameter(float(np.hypot(*(ends[1] - ends[0]))), (_point(first), _point(last)))


def _point(place: NDArray[np.float64]) -> Point:
    return float(place[0]), float(place[1])
