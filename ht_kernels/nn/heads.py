"""The published feature pyramid and heads, under the names of published checkpoints.

A model holds them as ``reduces``, ``blocks`` and ``seg_head`` or ``cls_head``. These modules only hold the parameters;
:func:`ht_kernels.functional.feature_pyramid` computes the pyramid from folded levels, in training too.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def pyramid(dim: int, width: int, levels: int) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Make ``reduces`` and ``blocks`` of a feature pyramid of width ``width`` for tokens of width ``dim``."""
    reduces = nn.ModuleList(nn.Linear(dim, width) for _ in range(levels))
    blocks = nn.ModuleList(
        nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        for _ in range(levels)
    )
    return reduces, blocks


class SegmentationHead(nn.Sequential):
    """Bilinear upsampling and a 1x1 convolution to ``num_classes``, computed in the reverse order (identity 7).

    The convolution (``weight``, ``bias``) is folded into the pyramid, so ``head(scores, grid, size)`` only upsamples
    scores (B, H*W, K) on the patch grid to logits (B, K, *size).
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__(nn.Identity(), nn.Conv2d(width, num_classes, 1))

    @property
    def weight(self) -> Tensor:
        """The weight (K, R) of the 1x1 convolution."""
        return self.get_parameter("1.weight").flatten(1)

    @property
    def bias(self) -> Tensor:
        """The bias (K,) of the 1x1 convolution."""
        return self.get_parameter("1.bias")

    def forward(self, scores: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:  # type: ignore[override]
        """Upsample scores (B, H*W, K) to logits (B, K, *size)."""
        return upsample(scores, grid, size)


class ClassificationHead(nn.Sequential):
    """A small MLP that maps pooled features (B, R) to logits (B, K).

    It starts with two identities, because in published checkpoints layers 0 and 1 are a pooling and a flattening.

    Args:
        width: pyramid width R.
        num_classes: the number of classes K.
        hidden: choose the published form for the original OpenAI package: Linear(R, R), ReLU, dropout 0.1,
            Linear(R, K). Otherwise the layers are dropout 0.5 and Linear(R, K).
    """

    def __init__(self, width: int, num_classes: int, hidden: bool) -> None:
        mlp: list[nn.Module] = [nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.1)] if hidden else [nn.Dropout(0.5)]
        super().__init__(nn.Identity(), nn.Identity(), *mlp, nn.Linear(width, num_classes))


def upsample(scores: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Upsample scores (B, H*W, K) on a patch grid (H, W) bilinearly (align_corners=False) to (B, K, *size)."""
    batch, _, channels = scores.shape
    image = scores.transpose(1, 2).reshape(batch, channels, *grid)
    return F.interpolate(image, size, mode="bilinear", align_corners=False)
