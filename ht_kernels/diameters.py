"""The long and the short diameter of a connected region of pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def diameters(region: NDArray[np.bool_], sides: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
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
