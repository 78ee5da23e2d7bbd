"""Measurements of shapes of known size, of random ones against slow and plain ways, and of phantoms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ht_kernels.data.phantom import LinearScan, Phantom, simulate
from ht_kernels.data.phantom.lesion import Lesion
from ht_kernels.errors import InputError
from ht_kernels.measurement import Measurement, measure
from ht_kernels.media.frames import Box
from ht_kernels.media.scale import Scale, Spacing

SPACINGS = [(1.0, 1.0), (0.1, 0.1), (0.3, 0.1), (0.08, 0.21)]


def lesion(mask: np.ndarray, spacing: Any = None) -> Measurement:
    (found,) = measure(mask, spacing)
    return found


def drawn(inside: Any, spacing: tuple[float, float], height: float, width: float) -> np.ndarray:
    """The mask of a shape: pixels whose centres, in millimetres, are inside."""
    rows, columns = round(height / spacing[1]), round(width / spacing[0])
    x, y = (np.arange(columns) + 0.5) * spacing[0], (np.arange(rows) + 0.5) * spacing[1]
    mask: np.ndarray = inside(x[None], y[:, None]).astype(np.uint8)
    return mask


def lengths(found: Measurement) -> tuple[float, float]:
    assert found.long is not None and found.short is not None
    return found.long.length, found.short.length


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("angle", [0.0, 0.3, 0.9, math.pi / 2, 2.5])
@pytest.mark.parametrize("axes", [(9.0, 9.0), (12.0, 5.0), (10.0, 8.0)])
def test_ellipses(axes: tuple[float, float], angle: float, spacing: tuple[float, float]) -> None:
    """A mask whose pixels have their centres in an ellipse differs from it by at most half a diagonal d of a pixel.

    A point that lies d / 2 or more inside the ellipse is in the mask, for the centre of its pixel is no further away.
    No point of the mask lies more than d / 2 outside. So the long diameter is within d of 2a, and tilted by t at most,
    where the ellipse with d / 2 around it is 2a - d wide: a^2 - (a^2 - b^2) sin(t)^2 = (a - d)^2. The short one is no
    shorter than 2b - d, for through the centre there is such a line in every direction, and no longer than the ellipse
    with d / 2 around it is wide at that tilt.
    """
    cos, sin = math.cos(angle), math.sin(angle)

    def inside(x: Any, y: Any) -> Any:
        along, across = (x - 15.3) * cos + (y - 14.9) * sin, (y - 14.9) * cos - (x - 15.3) * sin
        return (along / axes[0]) ** 2 + (across / axes[1]) ** 2 <= 1

    found, diagonal = lesion(drawn(inside, spacing, 30, 30), spacing), math.hypot(*spacing)
    long, short = lengths(found)
    assert found.unit == "mm" and found.regions == 1
    assert abs(long - 2 * axes[0]) <= diagonal
    a2, b2 = axes[0] ** 2, axes[1] ** 2
    sine2 = min(1.0, (a2 - (axes[0] - diagonal) ** 2) / (a2 - b2)) if a2 > b2 else 1.0
    assert 2 * axes[1] - diagonal <= short <= 2 * math.sqrt(b2 + (a2 - b2) * sine2) + diagonal
    perimeter = 2 * math.pi * math.sqrt((a2 + b2) / 2)  # an upper bound
    assert abs(found.area - math.pi * axes[0] * axes[1]) <= perimeter * diagonal / 2 + math.pi * diagonal**2 / 4
    assert found.centroid == pytest.approx((15.3, 14.9), abs=diagonal / 2)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("angle", [0.0, 0.2, 0.7, 1.2])
def test_rotated_rectangles(angle: float, spacing: tuple[float, float]) -> None:
    """The long diameter is the diagonal, and the short one meets both long sides."""
    width, height, cos, sin = 14.0, 6.0, math.cos(angle), math.sin(angle)

    def inside(x: Any, y: Any) -> Any:
        along, across = (x - 10) * cos + (y - 10) * sin, (y - 10) * cos - (x - 10) * sin
        return (abs(along) <= width / 2) & (abs(across) <= height / 2)

    found, diagonal = lesion(drawn(inside, spacing, 20, 20), spacing), math.hypot(*spacing)
    long, short = lengths(found)
    assert math.hypot(width - diagonal, height - diagonal) <= long <= math.hypot(width, height) + diagonal
    # A line at a right angle to the diagonal meets both long sides: it is height / cos(angle of the diagonal) long, and
    # to first order at most 1.1 d longer or shorter for the sides and 0.3 d for the tilt of the diagonal.
    expected = height * math.hypot(width, height) / width
    assert abs(short - expected) <= 2 * diagonal
    assert abs(found.area - width * height) <= (width + height) * diagonal


def test_rows_of_pixels_are_exact() -> None:
    mask = np.zeros((9, 20), np.uint8)
    mask[3, 4:14] = 1
    found = lesion(mask, (0.5, 0.2))
    long, short = lengths(found)
    assert found.pixels == 10 and found.area == pytest.approx(1.0) and found.region_area == pytest.approx(1.0)
    assert long == pytest.approx(math.hypot(5.0, 0.2))  # from corner to corner
    assert short == pytest.approx(0.2 * long / 5.0)  # between the long sides
    assert found.centroid == pytest.approx((4.5, 0.7)) and found.box == pytest.approx((2.0, 0.6, 5.0, 0.2))
    assert found.region == Box(4, 3, 10, 1) and found.unit == "mm" and found.spacing == Spacing(0.5, 0.2)
    assert found.long is not None and {y for _, y in found.long.ends} == {3.0, 4.0}
    one = np.zeros((5, 5), np.uint8)
    one[2, 2] = 1
    assert lengths(lesion(one)) == pytest.approx((math.sqrt(2), math.sqrt(2)))
    assert lesion(one).unit == "px"


def test_the_largest_region_is_measured_and_all_pixels_count() -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[2:12, 3:23] = 1
    mask[12, 23] = 1  # at a corner of the first: of one region with it
    mask[30:33, 50:53] = 1
    found = lesion(mask, 0.1)
    assert (found.pixels, found.regions) == (210, 2) and found.region == Box(3, 2, 21, 11)
    assert found.area == pytest.approx(2.10) and found.region_area == pytest.approx(2.01)


def test_a_bay_is_no_part_of_the_short_diameter() -> None:
    """Across a half ring the line goes from the inner to the outer edge, and not to the line of the tips."""
    y, x = np.mgrid[:200, :200] + 0.5
    radius = np.hypot(x - 100, y - 100)
    ring = ((radius <= 80) & (radius >= 50) & (y <= 100)).astype(np.uint8)
    for mask in (ring, ring.T):
        long, short = lengths(lesion(mask))
        assert abs(long - 160) <= 2
        # The longest line across meets the outer edge at the side of the inner one: sqrt(80^2 - 50^2).
        assert abs(short - math.sqrt(80**2 - 50**2)) <= 3


def test_classes_and_names() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[2:5, 2:5], mask[10:12, 10:18] = 1, 3
    found = measure(mask, class_names=("background", "a", "b", "c"))
    assert [(each.number, each.name, each.pixels, each.regions) for each in found] == [
        (1, "a", 9, 1),
        (2, "b", 0, 0),
        (3, "c", 16, 1),
    ]
    assert found[1].long is None and found[1].box is None and found[1].area == 0
    assert [each.name for each in measure(mask)] == ["class 1", "class 2", "class 3"]
    assert [each.name for each in measure(mask > 0)] == ["class 1"]
    assert measure(np.zeros((0, 5), np.uint8))[0].pixels == 0


def test_refusals() -> None:
    mask = np.full((3, 3), 2, np.uint8)
    for wrong, sentence in (
        ({"mask": mask[None]}, r"of shape \(1, 3, 3\), expected the classes \(H, W\)"),
        ({"mask": mask.astype(int)}, "the mask is int64"),
        ({"class_names": ("background", "a")}, "the mask has the class 2, and there are names of 2 classes"),
        *(
            ({"spacing": value}, "expected the side of a pixel in millimetres")
            for value in (0, -1, (1, 2, 3), "a", 1e9)
        ),
        ({"spacing": (0.1, math.nan)}, "expected the side of a pixel"),
    ):
        with pytest.raises(InputError, match=sentence):
            measure(**{"mask": mask, **wrong})


def test_scales_of_parts_of_a_frame() -> None:
    """The part that a class lies in decides; where it touches two that differ, it is measured in pixels."""
    mask = np.zeros((20, 40), np.uint8)
    mask[5:9, 4:8] = 1
    left, right = Scale(Box(0, 0, 20, 20), Spacing(0.1, 0.2)), Scale(Box(20, 0, 20, 20), Spacing(0.3, 0.3))
    (found,) = measure(mask, scales=(left, right))
    assert found.spacing == (0.1, 0.2) and found.area == pytest.approx(16 * 0.02)
    (found,) = measure(np.roll(mask, 20, 1), scales=(left, right))
    assert found.spacing == (0.3, 0.3)
    assert measure(np.roll(mask, 14, 1), scales=(left, right))[0].unit == "px"
    assert measure(mask, scales=(left, right._replace(spacing=None)))[0].spacing == (0.1, 0.2)
    assert measure(mask, scales=(right,))[0].spacing == (0.3, 0.3)  # it touches none, and there is one
    assert measure(mask, 0.5, scales=(left, right))[0].spacing == (0.5, 0.5)
    assert measure(mask)[0].unit == "px"


def regions_of(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """The regions of a mask, pixel by pixel."""
    left = set(zip(*map(list, np.nonzero(mask)), strict=True))
    found = []
    while left:
        region, edge = set(), [next(iter(left))]
        left.discard(edge[0])
        while edge:
            y, x = edge.pop()
            region.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            edge += near
        found.append(region)
    return found


masks = arrays(np.bool_, st.tuples(st.integers(1, 14), st.integers(1, 14)))


@settings(max_examples=300, deadline=None)
@given(masks, st.sampled_from(SPACINGS))
def test_random_masks(mask: np.ndarray, spacing: tuple[float, float]) -> None:
    """Regions, the largest of them, and its long diameter are what a search over all pairs of corners finds."""
    found, regions = lesion(mask, spacing), regions_of(mask)
    assert found.pixels == mask.sum() and found.regions == len(regions)
    if not regions:
        return
    largest = max(len(region) for region in regions)
    assert found.region_area == pytest.approx(largest * spacing[0] * spacing[1])
    box = found.region
    assert box is not None and found.long is not None and found.short is not None
    chosen = [r for r in regions if len(r) == largest and min(r)[0] == box.y and min(x for _, x in r) == box.x]
    region = max(chosen, key=lambda r: max(x for _, x in r) == box.x + box.width - 1)
    corners = np.array([(x + i, y + j) for y, x in region for i in (0, 1) for j in (0, 1)]) * spacing
    far = np.hypot(*(corners[:, None] - corners).transpose(2, 0, 1)).max()
    assert found.long.length == pytest.approx(far)
    long, short = (np.array(line.ends) * spacing for line in (found.long, found.short))
    assert np.hypot(*(long[1] - long[0])) == pytest.approx(found.long.length)
    assert np.hypot(*(short[1] - short[0])) == pytest.approx(found.short.length)
    assert abs((long[1] - long[0]) @ (short[1] - short[0])) <= 1e-9 * far**2
    assert found.short.length <= found.long.length * (1 + 1e-9)
    assert found.centroid == pytest.approx(((np.array(sorted(region)) + 0.5).mean(0)[::-1] * spacing).tolist())


def widest_across(mask: np.ndarray, spacing: tuple[float, float], along: np.ndarray) -> float:
    """The longest line across, found at each corner over all pixels that the line meets there."""
    across = np.array([-along[1], along[0]])
    ys, xs = np.nonzero(mask)
    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
    corners = (np.stack([xs, ys], 1)[:, None] + square) * spacing  # (pixels, 4, 2)
    t, u = corners @ along, corners @ across
    best = 0.0
    for place in np.unique(t):
        heights = []
        for i in range(4):
            t0, t1, u0, u1 = t[:, i], t[:, (i + 1) % 4], u[:, i], u[:, (i + 1) % 4]
            met = (np.minimum(t0, t1) <= place + 1e-12) & (place - 1e-12 <= np.maximum(t0, t1)) & (abs(t1 - t0) > 1e-12)
            heights.append((u0 + (place - t0) / np.where(met, t1 - t0, 1) * (u1 - u0))[met])
        line = np.concatenate(heights)
        best = max(best, float(np.ptp(line)) if len(line) else 0.0)
    return best


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 5)), min_size=1, max_size=9), st.sampled_from(SPACINGS))
def test_the_short_diameter_of_solid_shapes(columns: list[tuple[int, int]], spacing: tuple[float, float]) -> None:
    """Of shapes without gaps in rows and columns it is what a search over all pixels finds."""
    tops = np.cumsum([0] + [shift - 2 for _, shift in columns[1:]])
    mask = np.zeros((60, len(columns)), np.uint8)
    for x, (top, (deep, _)) in enumerate(zip(tops, columns, strict=True)):
        mask[20 + top // 3 : 20 + top // 3 + deep + 1, x] = 1
    solid = all(np.ptp(np.flatnonzero(row)) + 1 == row.sum() for row in mask if row.any())
    found = lesion(mask, spacing)
    if not solid or found.regions > 1 or found.long is None or found.short is None:
        return
    long = np.diff(np.array(found.long.ends) * spacing, axis=0)[0]
    assert found.short.length == pytest.approx(widest_across(mask, spacing, long / np.hypot(*long)), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(masks, st.integers(2, 4))
def test_scaling(mask: np.ndarray, times: int) -> None:
    """Finer pixels of the same picture measure the same, and turned or mirrored pictures do, but for ties."""
    once = lesion(mask, (0.3, 0.5))
    finer = lesion(np.kron(mask, np.ones((times, times), bool)), (0.3 / times, 0.5 / times))
    assert finer.regions == once.regions and finer.area == pytest.approx(once.area)
    assert finer.centroid == (None if once.centroid is None else pytest.approx(once.centroid))
    if once.long is not None:
        assert lengths(finer) == pytest.approx(lengths(once))
    for turned, spacing in ((mask[::-1], (0.3, 0.5)), (mask[:, ::-1], (0.3, 0.5)), (mask.T, (0.5, 0.3))):
        again = lesion(turned, spacing)
        assert again.regions == once.regions and again.area == pytest.approx(once.area)
        assert again.region_area == (None if once.region_area is None else pytest.approx(once.region_area))


def outline_of(lesion: Lesion) -> np.ndarray:
    """The outline of a simulated lesion in millimetres, (n, 2), by its harmonics."""
    angle = np.linspace(0, 2 * math.pi, 2000, endpoint=False)
    radius = 1 + sum((c * np.exp(1j * k * angle)).real for k, c in enumerate(lesion.harmonics, 1))
    along, across = radius * np.cos(angle) * lesion.axes[0], radius * np.sin(angle) * lesion.axes[1]
    cos, sin = math.cos(lesion.rotation), math.sin(lesion.rotation)
    return np.stack([along * cos - across * sin, along * sin + across * cos], 1) + lesion.center


@pytest.mark.parametrize("size", [(224, 224), (160, 320), (300, 120)])
@pytest.mark.parametrize("seed", range(3))
def test_phantoms(seed: int, size: tuple[int, int]) -> None:
    """The sizes of a simulated lesion, whose outline is known in millimetres, whatever the shape of the pixels."""
    scan = LinearScan()
    sample = simulate(Phantom(kind="hypoechoic", scan=scan, size=size), seed=seed)
    assert sample.lesion is not None
    spacing = scan.width / size[1], scan.depth / size[0]
    found, diagonal = lesion(sample.mask, spacing), math.hypot(*spacing)
    points = outline_of(sample.lesion)
    x, y = points.T
    cross = x * np.roll(y, -1) - np.roll(x, -1) * y
    perimeter = np.hypot(*(points - np.roll(points, 1, 0)).T).sum()
    assert abs(found.area - abs(cross.sum()) / 2) <= perimeter * diagonal / 2
    far = np.hypot(*(points[:, None] - points).transpose(2, 0, 1)).max()
    assert abs(lengths(found)[0] - far) <= diagonal
    centre = [((each + np.roll(each, -1)) * cross).sum() / (3 * cross.sum()) for each in (x, y)]
    assert found.centroid == pytest.approx((centre[0] + scan.width / 2, centre[1]), abs=diagonal / 2)
    assert found.box == pytest.approx((x.min() + scan.width / 2, y.min(), np.ptp(x), np.ptp(y)), abs=2 * max(spacing))


def test_noise_and_combs_do_not_take_seconds_of_steps() -> None:
    """Of pure noise there are as many regions as a search finds; a comb, whose teeth meet in one row, is one region."""
    noise = np.random.default_rng(0).random((60, 80)) < 0.4
    assert lesion(noise).regions == len(regions_of(noise))
    comb = np.zeros((101, 400), np.uint8)
    comb[:, ::2], comb[50] = 1, 1
    assert lesion(comb).regions == 1
