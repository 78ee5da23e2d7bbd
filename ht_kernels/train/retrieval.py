"""How well images find their captions, and captions their images."""

from __future__ import annotations

import torch
from torch import Tensor

AT = (1, 5, 10)


def ranks(images: Tensor, texts: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The place of the first right one, from 1, by cosine similarity; a wrong one that is as similar comes before it.

    Args:
        images: embeddings (N, E) of unit length.
        texts: those of all captions, each once, (T, E).
        targets: the captions of each image, (N, M) int64, -1 for none.

    Returns:
        (N,) of images among captions, and (T,) of captions among images, 0 for a caption that no image has.
    """
    similar = images.float() @ texts.float().t()
    own = torch.zeros(similar.shape[0], similar.shape[1] + 1, dtype=torch.bool)
    own = own.scatter(1, targets % own.shape[1], True)[:, :-1]  # -1 goes into a column of its own
    found = []
    for scores, right in ((similar, own), (similar.t(), own.t())):
        best = scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
        before = ((scores >= best) & ~right).sum(1) + 1
        found.append(before * right.any(1))
    return found[0], found[1]


def recalls(of_images: Tensor, of_texts: Tensor) -> dict[str, float]:
    """Shares of ranks that are at most 1, 5 and 10, both ways, and the mean of the six, of what :func:`ranks` gives."""
    values: dict[str, float] = {}
    for way, found in (("image_to_text", of_images), ("text_to_image", of_texts[of_texts > 0])):
        values |= {f"{way}_recall_{k}": float((found <= k).double().mean()) for k in AT}
    return {**values, "mean_recall": sum(values.values()) / len(values)}
