"""What the logits of frames say, in NumPy, so that masks and probabilities need no torch.

With K > 1 logits there are K classes. A single logit tells two classes apart, and is the logit of class 1 where that of
class 0, the background, is 0. The largest logit wins, and of equal ones the first, as in :mod:`ht_kernels.classes`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import compiled

Logits = NDArray[np.float32]

_LARGEST_SIDE = 2**20
_MOST_CLASSES = 256

_SMALL = 2**17
"""Products of matrices with fewer multiplications than these run in the calling thread.

For larger ones BLAS wakes threads of its own, OpenBLAS from 2^18 on, which would take cores from the model.
"""


def classes(logits: Logits) -> NDArray[np.uint8]:
    """The class of each pixel or frame: (B, ...) uint8 of logits (B, K, ...), K from 1 to 256."""
    of_classes = _of_classes(logits)
    best = of_classes[:, 1] > of_classes[:, 0] if of_classes.shape[1] == 2 else of_classes.argmax(1)
    return best.astype(np.uint8)


def probabilities(logits: Logits) -> Logits:
    """The probability of each class, (B, C, ...) of logits (B, K, ...): their softmax, for a single logit its sigmoid.

    The number of classes C is K, or 2 for a single logit.
    """
    shares = _below_largest(logits)
    np.exp(shares, out=shares)
    shares /= shares.sum(1, keepdims=True)
    return shares


def log_probabilities(logits: Logits) -> Logits:
    """The natural logarithm of :func:`probabilities`, finite where a probability is rounded to 0."""
    below = _below_largest(logits)
    below -= np.log(np.exp(below).sum(1, keepdims=True))
    return below


def upsample(logits: Logits, size: tuple[int, int]) -> Logits:
    """Logits (B, K, h, w) in another size, (B, K, H, W): bilinear, as torch does it with ``align_corners=False``."""
    (height, width), (rows, columns) = size, logits.shape[2:]
    return _product(_product(_upsampling(rows, height), logits), _upsampling(columns, width).T)


def to_grid(logits: Logits, grid: tuple[int, int]) -> Logits:
    """The logits (B, K, h, w) on a grid that logits (B, K, H, W) were upsampled from, to rounding."""
    (rows, columns), (height, width) = grid, logits.shape[2:]
    return _product(_product(_back(rows, height), logits), _back(columns, width).T)


def mask_of_grid(logits: Logits, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The class of each pixel, (B, H, W) uint8, of logits (B, K, h, w) on a grid: those of the upsampled logits.

    One thread of the compiled core does both in one pass: it takes 0.2 ms for 1920 x 1080 pixels, and threads beside it
    would go on to turn idly on the cores that the model needs. Without the core the result is the same, ties aside.

    Args:
        logits: finite, K from 1 to 256.
        size: (H, W), larger or smaller than the grid.

    Raises:
        ValueError: the shape or the size does not fit.
    """
    if logits.ndim != 4 or not 1 <= logits.shape[1] <= _MOST_CLASSES or min(logits.shape[2:]) < 1:
        raise ValueError(f"logits must have shape (batch, 1 to 256 classes, height, width), got {logits.shape}")
    if not all(1 <= side <= _LARGEST_SIDE for side in size):
        raise ValueError(f"size must be (height, width), each from 1 to {_LARGEST_SIDE}, got {size}")
    if compiled.missing:
        return classes(upsample(logits, size))
    logits = np.ascontiguousarray(logits, dtype=np.float32)
    mask = np.empty((len(logits), *size), dtype=np.uint8)
    compiled.module.grid_to_mask((*logits.shape, *size), logits.ctypes.data, mask.ctypes.data, 1)
    return mask


def _of_classes(logits: Logits) -> Logits:
    """The logits of all classes: a single logit is that of class 1, and that of class 0 is 0."""
    return np.concatenate([np.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits


def _below_largest(logits: Logits) -> Logits:
    """The logits of all classes less the largest of them, so that no power of e overflows."""
    of_classes = _of_classes(logits)
    below: Logits = of_classes - of_classes.max(1, keepdims=True)
    return below


@lru_cache(maxsize=32)
def _upsampling(cells: int, pixels: int) -> Logits:
    """The matrix (pixels, cells) of linear interpolation between the centres of cells."""
    centers = (np.arange(pixels) + 0.5) * (cells / pixels) - 0.5
    return _kept(np.stack([np.interp(centers, np.arange(cells), unit) for unit in np.eye(cells)], 1))


@lru_cache(maxsize=32)
def _back(cells: int, pixels: int) -> Logits:
    """The pseudo-inverse (cells, pixels) of :func:`_upsampling`."""
    return _kept(np.linalg.pinv(_upsampling(cells, pixels).astype(np.float64)))


def _kept(matrix: NDArray[Any]) -> Logits:
    """A matrix for the cache, in float32."""
    matrix = np.ascontiguousarray(matrix, dtype=np.float32)
    matrix.flags.writeable = False
    return matrix


def _product(a: Logits, b: Logits) -> Logits:
    """The product of matrices (..., m, k) and (..., k, n), in pieces of rows small enough for the calling thread."""
    (rows, inner), width = a.shape[-2:], b.shape[-1]
    product = np.empty((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), rows, width), dtype=np.float32)
    step = max(1, _SMALL // (inner * width))
    for first in range(0, rows, step):
        part = slice(first, first + step)
        np.matmul(a[..., part, :], b, out=product[..., part, :])
    return product
