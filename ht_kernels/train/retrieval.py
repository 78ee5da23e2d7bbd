"""Retrieval metrics: how well images find their captions, and captions find their images."""

from __future__ import annotations

import torch
from torch import Tensor

AT = (1, 5, 10)


def ranks(images: Tensor, texts: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rank, from 1, of the first right answer to each query, in order of cosine similarity.

    A wrong answer that is exactly as similar as the right one is ranked before it.

    Args:
        images: embeddings (N, E) of the images, of unit length.
        texts: embeddings (T, E) of all different captions, of unit length.
        targets: the captions of each image, as indices (N, M) int64 into ``texts``, padded with -1.

    Returns:
        For each image the rank (N,) of its first right caption, and for each caption the rank (T,) of its first right
        image, or 0 if no image has the caption.
    """
    similar = images.float() @ texts.float().t()
    own = torch.zeros(similar.shape[0], similar.shape[1] + 1, dtype=torch.bool)
    own = own.scatter(1, targets % own.shape[1], True)[:, :-1]  # -1 sets an extra last column, which is cut off
    found = []
    for scores, right in ((similar, own), (similar.t(), own.t())):
        best = scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
        before = ((scores >= best) & ~right).sum(1) + 1
        found.append(before * right.any(1))
    return found[0], found[1]


def recalls(of_images: Tensor, of_texts: Tensor) -> dict[str, float]:
    """Recall at 1, 5 and 10 in both directions, from the results of :func:`ranks`, and the mean of the six numbers."""
    values: dict[str, float] = {}
    for way, found in (("image_to_text", of_images), ("text_to_image", of_texts[of_texts > 0])):
        values |= {f"{way}_recall_{k}": float((found <= k).double().mean()) for k in AT}
    return {**values, "mean_recall": sum(values.values()) / len(values)}
