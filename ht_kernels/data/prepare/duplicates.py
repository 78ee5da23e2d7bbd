"""Images that are there twice: the same pixels, or nearly the same picture."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE = 16
NEAR = 32
"""Images whose hashes of 256 bits differ by at most this many count as near duplicates.

Of 99235 pairs of images from BUSI half differ by more than 127 bits and 99.9 % by more than 74. But 72 pairs differ by
32 bits or less, and hardly any by 33 to 50.
"""
_SHARE = 1 / 3
"""Nor may they differ by more than this share of the bits that are set in either.

Of a small thing on black few bits are set, so any two of them differ by few. In 401 images of BUSI 83 bits or more are
set, and all 52 pairs that differ by 32 bits or less stay near.
"""


def pixel_hash(image: Image.Image) -> str:
    """SHA256 of a gray image's size and pixels: equal for exact duplicates, however they are compressed."""
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()


def difference_hash(image: Image.Image) -> NDArray[np.bool_]:
    """256 bits: which of 16 x 16 cells are darker than their right neighbours; (256,) bool.

    The difference hash of N. Krawetz ("Kind of like that", hackerfactor.com, 2013). Scaling, compression and changes
    of brightness and contrast turn few of its bits.
    """
    small = np.asarray(image.resize((_SIDE + 1, _SIDE), Image.Resampling.BOX), dtype=np.int16)
    return (small[:, 1:] > small[:, :-1]).ravel()


def near_duplicates(hashes: Sequence[NDArray[np.bool_]]) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of images whose hashes differ by at most :data:`NEAR` bits and a third of those set."""
    bits = np.stack(hashes)
    signs = np.where(bits, 1, -1).astype(np.float32)
    limits = np.minimum(NEAR, _SHARE * bits.sum(1))
    pairs: list[tuple[int, int]] = []
    for i in range(len(signs) - 1):
        different = (signs.shape[1] - signs[i + 1 :] @ signs[i]) / 2
        pairs += [(i, i + 1 + int(j)) for j in np.flatnonzero(different <= np.minimum(limits[i], limits[i + 1 :]))]
    return pairs
