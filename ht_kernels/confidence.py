"""How sure a model is of a mask: the mean margin between its two likeliest classes, near the mask's outline.

Far from the outline almost every pixel is certain, whatever the mask is worth, so only a band around it is asked.
"""

from __future__ import annotations

import numpy as np

from .dilation import dilate
from .logits import Logits, classes, probabilities

BAND = 32
"""The band reaches a 32nd of the image's height up and down, and of its width to the left and right, from the outline.

That is half a patch of a tower with 16 x 16 patches: within it, the tower's tokens do not tell where the outline is.
It does not depend on the model, so that exported files, which do not name their patches, have the same confidence.
"""


def mask_confidence(logits: Logits) -> float | None:
    """The confidence of the mask of one image, from 0 to 1; None where no outline of it is seen.

    The margin of a pixel is the probability of its likeliest class less that of the second. The outline consists of the
    pixels that have a neighbour above, below or beside of another class. The confidence is the mean margin over
    the band: the pixels that have one of the outline within the reach of :data:`BAND`, which is a pixel at least.
    Of larger images, about two pixels for each reach are looked at, so that the cost does not grow with the image. A
    mask that lies between them, smaller than a 64th of the image, has no confidence.

    Args:
        logits: (K, H, W) float32.
    """
    rows, columns = (max(1, side // (2 * BAND)) for side in logits.shape[1:])
    logits = logits[:, ::rows, ::columns]
    mask = classes(logits[None])[0]
    edge = np.zeros(mask.shape, dtype=np.bool_)
    across, down = mask[:, 1:] != mask[:, :-1], mask[1:] != mask[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    if not edge.any():
        return None
    for axis in (0, 1):
        edge = dilate(edge, max(1, round(edge.shape[axis] / BAND)), axis)
    two = np.sort(probabilities(logits[None, :, edge])[0], axis=0)[-2:]
    return float((two[1] - two[0]).mean())
