"""Vision towers: one view of the three structures that CLIP models come in.

A tower is recognised by its structure, so neither open_clip nor timm nor the original OpenAI package is imported.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ht_kernels.errors import InputError


class Tower(ABC):
    """A view of a vision tower; it owns nothing and changes nothing.

    Attributes:
        visual: the module with patch embedding, blocks and final norm.
        blocks: its transformer blocks.
        dim: token width D.
        grid: patch grid (H, W).
        image_size: (height, width) of the images it takes.
        prefix_tokens: tokens before the patch grid: CLS, registers.
        batch_first: blocks take (B, N, D); otherwise (N, B, D).
        patch_embedding: the convolution that embeds patches.
    """

    visual: nn.Module
    blocks: nn.ModuleList | nn.Sequential
    dim: int
    grid: tuple[int, int]
    image_size: tuple[int, int]
    prefix_tokens: int
    batch_first: bool
    patch_embedding: nn.Conv2d

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to what the first block takes: prefix and position included, pre-norm applied."""

    @abstractmethod
    def assemble(self, patches: Tensor) -> Tensor:
        """Patch embeddings (B, H*W, D) to tokens (B, N, D): prefix, position, dropout and pre-norm."""

    @abstractmethod
    def finish(self, tokens: Tensor) -> Tensor:
        """What the published code computes after the last block and no dense head reads: the final norm."""

    def tokens(self, x: Tensor) -> Tensor:
        """The output of a block as (B, N, D)."""
        return x if self.batch_first else x.transpose(0, 1)

    def patches(self, x: Tensor) -> Tensor:
        """The output of a block as patch tokens (B, H*W, D)."""
        return self.tokens(x)[:, self.prefix_tokens :]


class ClipTower(Tower):
    """``VisionTransformer`` of open_clip (batch first) or of the original OpenAI package (sequence first)."""

    def __init__(self, visual: nn.Module) -> None:
        self.visual = visual
        self.blocks = visual.transformer.resblocks
        self.patch_embedding = visual.conv1
        self.dim = visual.conv1.out_channels
        size = getattr(visual, "image_size", None) or visual.input_resolution
        self.image_size = _pair(size)
        patch = _pair(visual.conv1.kernel_size)
        self.grid = self.image_size[0] // patch[0], self.image_size[1] // patch[1]
        self.prefix_tokens = 1
        attention = self.blocks[0].attn
        self.batch_first = bool(getattr(visual.transformer, "batch_first", getattr(attention, "batch_first", False)))
        positions = visual.positional_embedding.shape[0]
        if positions != 1 + self.grid[0] * self.grid[1]:
            raise InputError(f"this CLIP tower has {positions} positions for a patch grid of {self.grid}; expected one")

    def embed(self, images: Tensor) -> Tensor:
        tokens = self.assemble(self.patch_embedding(images).flatten(2).transpose(1, 2))
        return tokens if self.batch_first else tokens.transpose(0, 1)

    def assemble(self, patches: Tensor) -> Tensor:
        visual = self.visual
        cls = visual.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        x = torch.cat([cls, patches], dim=1) + visual.positional_embedding.to(patches.dtype)
        if hasattr(visual, "patch_dropout"):
            x = visual.patch_dropout(x)
        normed: Tensor = visual.ln_pre(x)
        return normed

    def finish(self, tokens: Tensor) -> Tensor:
        normed: Tensor = self.visual.ln_post(self.tokens(tokens)[:, 0])
        return normed


class TimmTower(Tower):
    """timm's ``VisionTransformer``, bare or as the trunk of an open_clip model."""

    def __init__(self, visual: nn.Module) -> None:
        self.visual = visual
        self.blocks = visual.blocks
        self.patch_embedding = visual.patch_embed.proj
        self.dim = int(visual.embed_dim)
        self.image_size = _pair(visual.patch_embed.img_size)
        self.grid = _pair(visual.patch_embed.grid_size)
        self.prefix_tokens = int(visual.num_prefix_tokens)
        self.batch_first = True

    def embed(self, images: Tensor) -> Tensor:
        return self._add_position(self.visual.patch_embed(images))

    def assemble(self, patches: Tensor) -> Tensor:
        if self.visual.dynamic_img_size:  # timm then keeps the grid until the position is added
            patches = patches.unflatten(1, self.grid)
        return self._add_position(patches)

    def _add_position(self, patches: Tensor) -> Tensor:
        visual = self.visual
        x: Tensor = visual.norm_pre(visual.patch_drop(visual._pos_embed(patches)))
        return x

    def finish(self, tokens: Tensor) -> Tensor:
        normed: Tensor = self.visual.norm(tokens)
        return normed


def find_tower(model: nn.Module) -> Tower:
    """The vision tower of a CLIP model, of an open_clip vision tower, or of a bare timm vision transformer.

    Raises:
        InputError: the vision tower is not a plain vision transformer, for example a ResNet or ConvNeXt.
    """
    visual = getattr(model, "visual", model)
    trunk = getattr(visual, "trunk", visual)
    if _has(visual, "conv1", "class_embedding", "positional_embedding", "ln_pre", "transformer.resblocks"):
        return ClipTower(visual)
    if _has(trunk, "patch_embed.proj", "blocks", "_pos_embed", "patch_drop", "norm_pre", "norm", "num_prefix_tokens"):
        if trunk.patch_embed.img_size is None:
            raise InputError(f"{type(trunk).__name__} has no fixed image size; create it with img_size")
        if getattr(trunk, "rope", None) is None:
            return TimmTower(trunk)
    raise InputError(
        f"the vision tower is a {type(trunk).__name__}, but adapters need a vision transformer of open_clip, timm or "
        "the OpenAI CLIP package (patch embedding, one sequence of blocks, learned or fixed positions); "
        "use for example ViT-B-16"
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
