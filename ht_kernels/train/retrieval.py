"""Retrieval metrics: how well images find their captions, and captions find their images."""

from __future__ import annotations

import torch
from torch import Tensor

AT = (1, 2, 5, 10)

_MEAN_OF = (1, 5, 10)
"""The recalls in the mean recall, the usual ones."""


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
    """Summarize the results of :func:`ranks`.

    Returns:
        For each direction, ``image_to_text`` and ``text_to_image``: recall at 1, 2, 5 and 10 (``_recall_{k}``), the
        median and the mean of the ranks (``_median_rank``, ``_mean_rank``). ``rsum``, the sum of all eight recalls in
        percent. ``mean_recall``, the mean of the six recalls at 1, 5 and 10.
    """
    values: dict[str, float] = {}
    ways = {"image_to_text": of_images.double(), "text_to_image": of_texts[of_texts > 0].double()}
    for way, found in ways.items():
        values |= {f"{way}_recall_{k}": float((found <= k).double().mean()) for k in AT}
        values |= {f"{way}_median_rank": float(found.quantile(0.5)), f"{way}_mean_rank": float(found.mean())}
    usual = [values[f"{way}_recall_{k}"] for way in ways for k in _MEAN_OF]
    total = sum(values[f"{way}_recall_{k}"] for way in ways for k in AT)
    return {**values, "rsum": 100 * total, "mean_recall": sum(usual) / len(usual)}
