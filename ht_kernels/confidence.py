"""How sure a model is of a mask: the mean margin between its two likeliest classes, near the mask's outline.

Far from the outline almost every pixel is certain, whatever the mask is worth, so only a band around it is asked.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .classes import classes_of, probabilities_of

BAND = 32
"""The band reaches a 32nd of the image's height up and down, and of its width to the left and right, from the outline.

That is half a patch of a tower with 16 x 16 patches: within it, the tower's tokens do not tell where the outline is.
It does not depend on the model, so that exported files, which do not name their patches, have the same confidence.
"""


def mask_confidence(logits: Tensor) -> float | None:
    """The confidence of the mask of one image, from 0 to 1; None where no outline of it is seen.

    The margin of a pixel is the probability of its likeliest class less that of the second. The outline consists of the
    pixels that have a neighbour above, below or beside of another class. The confidence is the mean margin over
    the band: the pixels that have one of the outline within the reach of :data:`BAND`, which is a pixel at least.
    Of larger images, about two pixels for each reach are looked at, so that the cost does not grow with the image. A
    mask that lies between them, smaller than a 64th of the image, has no confidence.

    Args:
        logits: (K, H, W).
    """
    rows, columns = (max(1, side // (2 * BAND)) for side in logits.shape[1:])
    logits = logits[:, ::rows, ::columns]
    classes = classes_of(logits[None])[0]
    edge = torch.zeros_like(classes, dtype=torch.bool)
    for dim in (0, 1):
        count = classes.shape[dim] - 1
        differs = classes.narrow(dim, 0, count) != classes.narrow(dim, 1, count)
        edge.narrow(dim, 0, count).logical_or_(differs)
        edge.narrow(dim, 1, count).logical_or_(differs)
    if not edge.any():
        return None
    for dim in (0, 1):
        edge = _widen(edge, dim, max(1, round(edge.shape[dim] / BAND)))
    two = probabilities_of(logits[:, edge].float()[None])[0].topk(2, dim=0).values
    return float((two[0] - two[1]).mean())


def _widen(edge: Tensor, dim: int, reach: int) -> Tensor:
    """The pixels (H, W) that have one of ``edge`` within ``reach`` pixels along a dimension."""
    along = edge.transpose(dim, 1)
    sums = F.pad(along.cumsum(1, dtype=torch.int32), (reach + 1, reach))
    sums[:, -reach:] = sums[:, -reach - 1 : -reach]
    return (sums[:, 2 * reach + 1 :] > sums[:, : along.shape[1]]).transpose(dim, 1)
