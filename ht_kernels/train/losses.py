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


def info_nce(images: Tensor, texts: Tensor, fits: Tensor) -> Tensor:
    """InfoNCE within a batch: the mean of the cross entropies of finding each image's caption and each caption's image.

    Each image is paired with the caption at its place. Other captions of the batch that fit the image too are not
    counted as wrong ones: these pairs are left out of the softmax, in both directions.

    Args:
        images: embeddings (B, E) of the images, of unit length.
        texts: embeddings (B, E) of the captions, of unit length.
        fits: (B, B) bool, whether the caption of the column fits the image of the row; the diagonal is not read.
    """
    logits = images.float() @ texts.float().t() / TEMPERATURE
    own = torch.arange(len(logits), device=logits.device)
    logits = logits.masked_fill(fits & (own[:, None] != own), -torch.inf)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.t(), own)) / 2
