"""Masks of frames from logits on a patch grid, in CUDA, against torch's upsampling: are they right, and how fast?

The frames and classes are those of :mod:`benchmarks.grid_to_mask`, which measures the same on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.grid_to_mask import CLASSES, SIZES, disks
from ht_kernels.classes import classes_of
from ht_kernels.errors import BackendError
from ht_kernels.functional import grid_to_mask

from . import limits, measure
from .setting import Item, Row, Setting

Shape = tuple[int, tuple[int, int], int]
"""Batch, (height, width) of the masks, and the number of classes."""

_ODD: tuple[Shape, ...] = ((3, (241, 317), 2), (2, (37, 1), 1), (2, (9, 5), 256))
"""Shapes that are only checked: rows that do not end with a group of pixels, a single logit, masks below the grid."""
_DRY: tuple[Shape, ...] = ((1, (20, 31), 3),)
_FRAMES = 8
"""Masks of one timed call, for one alone is over before the next event."""


def items(setting: Setting) -> Iterator[Item]:
    """Yield the GPU's limits, a check of each shape, and the times of the shapes that a stream has."""
    usual = tuple((1, size, classes) for size in SIZES for classes in CLASSES)
    yield "ceilings", lambda: measure.ceilings(setting)
    for seed, shape in enumerate(_DRY if setting.dry else (*usual, *_ODD)):
        yield f"check of {words(shape)}", lambda seed=seed, shape=shape: check(shape, seed, setting)
    for shape in _DRY if setting.dry else usual:
        yield words(shape), lambda shape=shape: compare(shape, setting)


def words(shape: Shape) -> str:
    batch, (height, width), classes = shape
    return f"masks, B={batch} {height}x{width} K={classes}"


def bytes_moved(shape: Shape, cells: int) -> int:
    """The bytes that have to move: each logit of a grid of so many cells is read once, each class written once."""
    batch, (height, width), classes = shape
    return batch * (4 * classes * cells + height * width)


@torch.no_grad()
def check(shape: Shape, seed: int, setting: Setting) -> list[Row]:
    """Check masks of disks and of noise, and return a row for each.

    The error of a mask is the most by which the logit of a pixel's class, upsampled in float64, is below the largest
    one there, relative to the largest of the grid: a tie that rounding decides is no error. The published error is that
    of torch's upsampling and argmax in float32.
    """
    batch, size, classes = shape
    torch.manual_seed(seed)
    noise = torch.randn(batch, classes, 14, 14)
    rows = []
    for name, grid in (("disks", disks(classes).expand(batch, -1, -1, -1)), ("noise", noise)):
        logits = grid.to(setting.device)
        row: Row = {
            "kind": "check",
            "what": f"{words(shape)}, {name}",
            "dtype": "float32",
            "backend": setting.backend,
            "published_error": _error(classes_of(_upsampled(logits, size)), logits),
            "limit": limits.FLOAT32,
        }
        poison = torch.full((batch, *size), 255, dtype=torch.uint8, device=setting.device)
        del poison  # the allocator may reuse this memory for the masks
        try:
            mask, again = (grid_to_mask(logits, size, backend=setting.backend) for _ in range(2))
        except BackendError as refused:
            rows.append({**row, "skipped": str(refused)})
            continue
        error = _error(mask, logits)
        rows.append({**row, "error": error, "passed": error <= limits.FLOAT32, "same_bits": torch.equal(mask, again)})
    return rows


def compare(shape: Shape, setting: Setting) -> list[Row]:
    """Time torch's two ways and ours, beside a copy that reads and writes as many bytes as have to move."""
    batch, size, classes = shape
    logits = disks(classes).expand(batch, -1, -1, -1).to(setting.device)
    inputs = [logits.roll(i, -1) for i in range(1 if setting.dry else _FRAMES)]
    moved = bytes_moved(shape, logits.shape[2] * logits.shape[3])
    copied = [torch.zeros(moved // 2, dtype=torch.uint8, device=setting.device) for _ in inputs]
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "torch.interpolate, argmax": lambda x: _upsampled(x, size).argmax(1).to(torch.uint8),
        "torch.interpolate, classes_of": lambda x: classes_of(_upsampled(x, size)),
        "ours": lambda x: grid_to_mask(x, size, backend=setting.backend),
    }
    functions = {name: measure.over(way, inputs) for name, way in ways.items()}
    row = measure.compare(
        f"{words(shape)}, {moved / 1e6:.3g} MB to move",
        functions,
        len(inputs),
        setting,
        floor=measure.over(torch.clone, copied),
        graphs=functions,
        backend=setting.backend,
        bytes=moved,
    )
    return [row]


def _upsampled(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def _error(mask: Tensor, logits: Tensor) -> float:
    """See :func:`check`. A class that the model does not have, as where nothing was written, is wrong without end."""
    exact = _upsampled(logits.double(), (mask.shape[1], mask.shape[2]))
    if logits.shape[1] == 1:  # one logit is compared with 0
        exact = torch.cat([torch.zeros_like(exact), exact], 1)
    if int(mask.max()) >= exact.shape[1]:
        return float("inf")
    below = exact.amax(1) - exact.gather(1, mask.long()[:, None])[:, 0]
    return float(below.max() / logits.abs().max())
