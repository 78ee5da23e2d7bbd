"""The published losses, from MONAI."""

from __future__ import annotations

from collections.abc import Callable

from monai.losses import DiceCELoss, FocalLoss  # type: ignore[attr-defined]
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def loss_for(task: str) -> Loss:
    """Mean over the images of a batch: logits (B, K, H, W) with masks (B, H, W), or (B, K) with labels (B,).

    Dice plus cross entropy for segmentation, the Dice with squared predictions; focal loss for classification.
    """
    if task == "segmentation":
        dice = DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True, smooth_nr=1e-8, smooth_dr=1e-8)
        return lambda logits, masks: dice(logits.float(), masks[:, None])  # type: ignore[no-any-return]
    focal = FocalLoss(to_onehot_y=True)
    return lambda logits, labels: focal(logits.float(), labels[:, None])  # type: ignore[no-any-return]
