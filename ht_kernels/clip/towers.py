"""Vision towers: one interface to the structures of open_clip, timm and the original OpenAI package.

A tower is recognised by its structure, so none of these packages is imported.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from ht_kernels.errors import InputError


class Tower(ABC):
    """A view of a vision tower, which it does not change.

    Attributes:
        visual: the module with patch embedding, blocks and final norm.
        patch_embedding: the convolution that embeds patches.
        pre_norm: the module between position embedding and first block, often an identity.
        blocks: the transformer blocks.
        batch_first: whether blocks take (B, N, D) rather than (N, B, D).
        dim: token width D.
        prefix_tokens: the number of tokens before the patch grid, such as CLS and registers.
        grid: patch grid (H, W).
        image_size: (height, width) of the images that the tower takes.
    """

    def __init__(self, visual: nn.Module, patch_embedding: nn.Conv2d, pre_norm: nn.Module, blocks: nn.Sequential):
        self.visual: Any = visual
        self.patch_embedding = patch_embedding
        self.pre_norm = pre_norm
        self.blocks = blocks
        self.dim = patch_embedding.out_channels
        self.batch_first = True
        self.prefix_tokens = 1
        self.grid = (0, 0)
        self.image_size = (0, 0)

    def embed(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) into the tokens that the first block takes."""
        patches = self.patch_embedding(images).flatten(2).transpose(1, 2)
        x: Tensor = self.pre_norm(self.place(patches))
        return x if self.batch_first else x.transpose(0, 1)

    @abstractmethod
    def place(self, patches: Tensor) -> Tensor:
        """Turn embedded patches (B, H*W, D) into tokens (B, N, D): add prefix tokens and the position embedding."""

    @abstractmethod
    def finish(self, x: Tensor) -> Tensor:
        """Apply the final norm. The published code computes it, but no segmentation or classification head reads it."""

    def tokens(self, x: Tensor) -> Tensor:
        """Return the output of a block as (B, N, D)."""
        return x if self.batch_first else x.transpose(0, 1)

    def patches(self, x: Tensor) -> Tensor:
        """Return the patch tokens (B, H*W, D) in the output of a block."""
        return self.tokens(x)[:, self.prefix_tokens :]


class ClipTower(Tower):
    """``VisionTransformer`` of open_clip (batch first) or of the original OpenAI package (sequence first)."""

    def __init__(self, visual: Any) -> None:
        super().__init__(visual, visual.conv1, visual.ln_pre, visual.transformer.resblocks)
        self.image_size = _pair(visual.image_size if hasattr(visual, "image_size") else visual.input_resolution)
        patch = _pair(visual.conv1.kernel_size)
        self.grid = self.image_size[0] // patch[0], self.image_size[1] // patch[1]
        block: Any = self.blocks[0]
        self.batch_first = bool(getattr(visual.transformer, "batch_first", getattr(block.attn, "batch_first", False)))

    def place(self, patches: Tensor) -> Tensor:
        cls = self.visual.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        x: Tensor = torch.cat([cls, patches], dim=1) + self.visual.positional_embedding.to(patches.dtype)
        return self.visual.patch_dropout(x) if hasattr(self.visual, "patch_dropout") else x

    def finish(self, x: Tensor) -> Tensor:
        normed: Tensor = self.visual.ln_post(self.tokens(x)[:, 0])
        return normed


class TimmTower(Tower):
    """timm's ``VisionTransformer``, alone or as the trunk of an open_clip model."""

    def __init__(self, visual: Any) -> None:
        super().__init__(visual, visual.patch_embed.proj, visual.norm_pre, visual.blocks)
        self.image_size = _pair(visual.patch_embed.img_size)
        self.grid = _pair(visual.patch_embed.grid_size)
        self.prefix_tokens = int(visual.num_prefix_tokens)

    def place(self, patches: Tensor) -> Tensor:
        if self.visual.dynamic_img_size:  # timm then expects the grid as an image, channels last
            patches = patches.reshape(patches.shape[0], *self.grid, self.dim)
        x: Tensor = self.visual.patch_drop(self.visual._pos_embed(patches))
        return x

    def finish(self, x: Tensor) -> Tensor:
        normed: Tensor = self.visual.norm(x)
        return normed


def find_tower(model: nn.Module) -> Tower:
    """The vision tower in a CLIP model, an open_clip vision tower or a timm vision transformer.

    Raises:
        InputError: the vision tower is not a plain vision transformer, for example a ResNet or ConvNeXt.
    """
    visual: Any = getattr(model, "visual", model)
    trunk: Any = getattr(visual, "trunk", visual)
    if _has(visual, "conv1", "class_embedding", "positional_embedding", "ln_pre", "transformer.resblocks"):
        return ClipTower(visual)
    timm_parts = "patch_embed.proj", "blocks", "_pos_embed", "patch_drop", "norm_pre", "norm", "num_prefix_tokens"
    if _has(trunk, *timm_parts) and getattr(trunk, "rope", None) is None:
        if not isinstance(trunk.patch_embed.norm, nn.Identity):
            raise InputError("this vision transformer normalises its patch embedding, which no adapter was made for")
        if trunk.patch_embed.img_size is None:
            raise InputError("this vision transformer has no fixed image size; create it with img_size")
        return TimmTower(trunk)
    raise InputError(
        f"the vision tower is a {type(trunk).__name__}, but adapters need a vision transformer of open_clip, timm or "
        "the OpenAI CLIP package, for example ViT-B-16"
    )


def _has(module: nn.Module, *paths: str) -> bool:
    for path in paths:
        current: object = module
        for name in path.split("."):
            if not hasattr(current, name):
                return False
            current = getattr(current, name)
    return True


def _pair(size: int | tuple[int, ...]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
