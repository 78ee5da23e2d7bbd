"""Connected regions of the classes of a mask, found on runs of pixels in a row.

A mask of some regions has few runs, so that this costs little more than reading it, and noise does not cost seconds.
Pixels that share a corner are connected.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ht_kernels.media.frames import Box


class Runs(NamedTuple):
    """Runs of pixels of one class in a row, in the order of reading: (n,) each, the ends exclusive."""

    row: NDArray[np.intp]
    start: NDArray[np.intp]
    end: NDArray[np.intp]
    value: NDArray[np.uint8]

    def of(self, chosen: NDArray[np.bool_]) -> Runs:
        return Runs(self.row[chosen], self.start[chosen], self.end[chosen], self.value[chosen])

    def pixels(self) -> NDArray[np.intp]:
        """The pixels of each run."""
        length: NDArray[np.intp] = self.end - self.start
        return length

    def box(self) -> Box:
        """The box around all runs, of which there must be one."""
        left, top = int(self.start.min()), int(self.row[0])
        return Box(left, top, int(self.end.max()) - left, int(self.row[-1]) + 1 - top)


def find_runs(mask: NDArray[np.uint8]) -> Runs:
    """The runs of all classes but the background of a mask (H, W)."""
    height, width = mask.shape
    padded = np.zeros(1 + height * (width + 1), np.uint8)  # a run ends at the end of its row
    padded[1:].reshape(height, width + 1)[:, :width] = mask
    changes = np.flatnonzero(padded[1:] != padded[:-1])
    values = padded[1:][changes]
    inside = np.flatnonzero(values)
    row, start = np.divmod(changes[inside], width + 1)
    return Runs(row, start, changes[inside + 1] - row * (width + 1) if len(inside) else start, values[inside])


def connect(runs: Runs, width: int) -> NDArray[np.intp]:
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


def picture(region: Runs, box: Box) -> NDArray[np.bool_]:
    """The pixels of a region in its box, bool (H, W)."""
    line = box.width + 1
    steps = np.zeros(box.height * line, np.int8)
    places = (region.row - box.y) * line - box.x
    steps[places + region.start] = 1
    steps[places + region.end] = -1
    return np.cumsum(steps, dtype=np.int8).reshape(box.height, line)[:, :-1].view(np.bool_)


def largest_region(mask: NDArray[np.bool_]) -> tuple[Box, NDArray[np.bool_]]:
    """The largest connected region of a mask (H, W) that is not empty: the box around it, and its pixels in the box."""
    runs = find_runs(mask.view(np.uint8))
    root = connect(runs, mask.shape[1])
    region = runs.of(root == np.bincount(root, runs.pixels()).argmax())
    return region.box(), picture(region, region.box())
