"""The published losses: MONAI's losses for masks and for labels, and InfoNCE for captions.

MONAI is imported in the function that uses it, because its import takes five seconds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]

TEMPERATURE = 0.07
"""The published temperature of the contrastive loss. It is not trained."""


def loss_for(task: str, logits: int) -> Loss:
    """The loss function of a task for a model with ``logits`` = K logits; it returns the mean over a batch.

    For segmentation it takes logits (B, K, H, W) and masks (B, H, W), and computes Dice loss, with squared predictions
    in the denominator, plus cross entropy. For classification it takes logits (B, K) and labels (B,), and computes the
    focal loss. A single logit goes through a sigmoid, and the losses are those of class 1 alone.
    """
    from monai.losses import DiceCELoss, FocalLoss  # type: ignore[attr-defined]

    one = logits == 1
    loss: torch.nn.Module = FocalLoss(to_onehot_y=not one)
    if task == "segmentation":
        loss = DiceCELoss(
            to_onehot_y=not one, softmax=not one, sigmoid=one, squared_pred=True, smooth_nr=1e-8, smooth_dr=1e-8
        )

    def compute(logits: Tensor, targets: Tensor) -> Tensor:
        targets = targets[:, None]
        mean: Tensor = loss(logits.float(), targets.float() if one else targets)
        return mean

    return compute


def info_nce(images: Tensor, texts: Tensor, captions: Tensor) -> Tensor:
    """InfoNCE within a batch: the mean of the cross entropies of finding each image's caption and each caption's image.

    If several images of the batch have the same caption, each counts only with its own copy of the caption; the other
    copies are left out of the softmax.

    Args:
        images: embeddings (B, E) of the images, of unit length.
        texts: embeddings (B, E) of the captions, of unit length.
        captions: (B,) int64, the same number for the same caption.
    """
    logits = images.float() @ texts.float().t() / TEMPERATURE
    same = (captions[:, None] == captions).fill_diagonal_(False)
    logits = logits.masked_fill(same, -torch.inf)
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.t(), own)) / 2
