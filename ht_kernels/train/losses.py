"""The published losses: for masks and labels from MONAI, for captions InfoNCE."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss, FocalLoss  # type: ignore[attr-defined]
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]

TEMPERATURE = 0.07
"""Published; it is not trained."""


def loss_for(task: str) -> Loss:
    """Mean over the images of a batch: logits (B, K, H, W) with masks (B, H, W), or (B, K) with labels (B,).

    Dice plus cross entropy for segmentation, the Dice with squared predictions; focal loss for classification.
    """
    if task == "segmentation":
        dice = DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True, smooth_nr=1e-8, smooth_dr=1e-8)
        return lambda logits, masks: dice(logits.float(), masks[:, None])  # type: ignore[no-any-return]
    focal = FocalLoss(to_onehot_y=True)
    return lambda logits, labels: focal(logits.float(), labels[:, None])  # type: ignore[no-any-return]


def info_nce(images: Tensor, texts: Tensor, captions: Tensor) -> Tensor:
    """Mean of the cross entropies of finding the caption of an image and the image of a caption, within a batch.

    Another image of the batch whose caption reads the same is neither found nor missed: it is left out.

    Args:
        images: embeddings (B, E) of unit length.
        texts: those of the captions, (B, E).
        captions: (B,) int64, equal where captions are.
    """
    logits = images.float() @ texts.float().t() / TEMPERATURE
    same = (captions[:, None] == captions).fill_diagonal_(False)
    logits = logits.masked_fill(same, -torch.inf)
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.t(), own)) / 2
