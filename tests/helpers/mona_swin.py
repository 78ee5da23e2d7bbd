"""Mona and a Swin transformer with it, from their authors' description (CVPR 2025).

Every block has two Mona adapters, one behind attention and one behind the MLP, each behind the residual sum. Mona
works on the whole grid, so it knows nothing of windows. Shares no class with the library, so only structure can be
recognised.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformer, SwinTransformerBlock

from helpers.published_stand_in import SpatialPart


class Mona(nn.Module):
    """Takes the tokens (B, H*W, D) of a grid, without prefix tokens, and its sides."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.project1 = nn.Linear(dim, width)
        self.adapter_conv = SpatialPart(width, frequency=False, noise=False)
        self.dropout = nn.Dropout(0.1)
        self.project2 = nn.Linear(width, dim)
        self.norm = nn.LayerNorm(dim)
        self.gamma = nn.Parameter(torch.full((dim,), 1e-6))
        self.gammax = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, hw_shapes: tuple[int, int] | None = None) -> Tensor:
        height, width = hw_shapes  # type: ignore[misc]  # it cannot do without them
        assert x.shape[1] == height * width, "the tokens are not the grid"
        h = self.project1(self.norm(x) * self.gamma + x * self.gammax)
        image = self.adapter_conv(h.transpose(1, 2).unflatten(2, (height, width)))
        return x + self.project2(self.dropout(F.gelu(image.flatten(2).transpose(1, 2))))


class SwinBlockWithMona(SwinTransformerBlock):
    """Takes (B, H, W, D)."""

    bottleneck = 8

    def __init__(self, dim: int, *args: Any, **options: Any) -> None:
        super().__init__(dim, *args, **options)
        self.mona_1, self.mona_2 = Mona(dim, self.bottleneck), Mona(dim, self.bottleneck)

    def forward(self, x: Tensor) -> Tensor:
        x = self._adapted(self.mona_1, x + self.stochastic_depth(self.attn(self.norm1(x))))
        return self._adapted(self.mona_2, x + self.stochastic_depth(self.mlp(self.norm2(x))))

    @staticmethod
    def _adapted(mona: nn.Module, x: Tensor) -> Tensor:
        return mona(x.flatten(1, 2), x.shape[1:3]).view_as(x)


def swin_with_mona() -> SwinTransformer:
    """A small Swin transformer for images (B, 3, 56, 56): grids 14x14 and 7x7, windows of 7, half of them shifted.

    Every parameter of its adapters is random, and only they are trainable.
    """
    torch.manual_seed(0)
    model = SwinTransformer(
        patch_size=[4, 4],
        embed_dim=16,
        depths=[2, 2],
        num_heads=[1, 2],
        window_size=[7, 7],
        stochastic_depth_prob=0.0,
        num_classes=5,
        block=SwinBlockWithMona,
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("mona" in name)
        if "mona" in name:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model
