"""What a phantom shows, in words."""

from __future__ import annotations

import numpy as np

from .simulate import Sample

_ROWS, _COLUMNS = ("upper", "middle", "lower"), ("left", "centre", "right")


def caption(sample: Sample) -> str:
    """Kind and place of the lesion: its middle in thirds of the image, as in ``a cystic lesion at the upper left``."""
    if not sample.mask.any():
        return "no lesion"
    middle = np.argwhere(sample.mask).mean(0) / sample.mask.shape
    row, column = (names[int(3 * part)] for names, part in zip((_ROWS, _COLUMNS), middle, strict=True))
    return f"a {sample.kind} lesion at the {row} {column}"
