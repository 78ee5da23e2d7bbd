"""Vision towers: one interface to the structures of open_clip, timm, DINOv2 and the original OpenAI package.

A tower is recognised by its structure, so none of these packages is imported.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
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

    def __init__(
        self, visual: nn.Module, patch_embedding: nn.Conv2d, pre_norm: nn.Module, blocks: nn.Sequential | nn.ModuleList
    ) -> None:
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

    def resize(self, size: int) -> None:
        """Make the tower take square images of another size, in place. Its position embedding is resampled.

        The patch grid is resampled bicubically with antialiasing, as open_clip and timm do. Prefix tokens keep their
        positions.

        Raises:
            InputError: ``size`` is not a multiple of the patch size.
        """
        patch = _pair(self.patch_embedding.kernel_size)
        check_size(size, patch)
        self.set_size((size, size), (size // patch[0], size // patch[1]))

    @abstractmethod
    def set_size(self, image_size: tuple[int, int], grid: tuple[int, int]) -> None:
        """Do the work of :meth:`resize`, with an image size and the patch grid that belongs to it."""

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

    def set_size(self, image_size: tuple[int, int], grid: tuple[int, int]) -> None:
        visual, old = self.visual, self.visual.positional_embedding
        patches = old.detach()[1:].float().reshape(1, *self.grid, self.dim).permute(0, 3, 1, 2)
        patches = F.interpolate(patches, grid, mode="bicubic", antialias=True).flatten(2)[0].t()
        new = torch.cat([old.detach()[:1], patches.to(old.dtype)])
        visual.positional_embedding = nn.Parameter(new, requires_grad=old.requires_grad)
        if hasattr(visual, "image_size"):
            visual.image_size, visual.grid_size = image_size, grid
        else:
            visual.input_resolution = image_size[0]
        self.image_size, self.grid = image_size, grid


class TimmTower(Tower):
    """``VisionTransformer`` or ``Eva`` of timm, alone or as the trunk of an open_clip model."""

    def __init__(self, visual: Any, wrapper: Any) -> None:
        super().__init__(visual, visual.patch_embed.proj, visual.norm_pre, visual.blocks)
        self._wrapper = wrapper
        self.image_size = _pair(visual.patch_embed.img_size)
        self.grid = _pair(visual.patch_embed.grid_size)
        self.prefix_tokens = int(visual.num_prefix_tokens)

    def place(self, patches: Tensor) -> Tensor:
        if self.visual.dynamic_img_size:  # timm then expects the grid as an image, channels last
            patches = patches.reshape(patches.shape[0], *self.grid, self.dim)
        placed = self.visual._pos_embed(patches)
        if isinstance(placed, tuple):  # from Eva: tokens that went through patch dropout, and rotary positions or None
            x: Tensor = placed[0]
            return x
        x = self.visual.patch_drop(placed)
        return x

    def finish(self, x: Tensor) -> Tensor:
        normed: Tensor = self.visual.norm(x)
        return normed

    def set_size(self, image_size: tuple[int, int], grid: tuple[int, int]) -> None:
        self._wrapper.set_input_size(image_size)
        self.image_size, self.grid = image_size, grid


class DinoTower(Tower):
    """``DinoVisionTransformer`` of DINOv2's own code, as torch.hub gives it and the published code has it.

    Its blocks may lie in chunks, behind identities that stand for the blocks of the chunks before. Its forward
    interpolates the positions for every image that has another size than ``image_size``; :meth:`set_size` does it once,
    in the same way.
    """

    def __init__(self, visual: Any) -> None:
        super().__init__(visual, visual.patch_embed.proj, nn.Identity(), _without_chunks(visual.blocks))
        self.image_size = _pair(visual.patch_embed.img_size)
        self.grid = _pair(visual.patch_embed.patches_resolution)
        registers = getattr(visual, "register_tokens", None)
        self.prefix_tokens = 1 if registers is None else 1 + registers.shape[1]

    def place(self, patches: Tensor) -> Tensor:
        visual, count = self.visual, patches.shape[0]
        x = torch.cat([visual.cls_token.expand(count, -1, -1), patches], dim=1)
        x = x + visual.interpolate_pos_encoding(x, *self.image_size)
        registers = getattr(visual, "register_tokens", None)
        return x if registers is None else torch.cat([x[:, :1], registers.expand(count, -1, -1), x[:, 1:]], dim=1)

    def finish(self, x: Tensor) -> Tensor:
        normed: Tensor = self.visual.norm(x)
        return normed

    def set_size(self, image_size: tuple[int, int], grid: tuple[int, int]) -> None:
        embed, old = self.visual.patch_embed, self.visual.pos_embed
        with torch.no_grad():
            like = old.new_zeros(1, 1 + grid[0] * grid[1], self.dim)
            new = self.visual.interpolate_pos_encoding(like, *image_size).clone()
        self.visual.pos_embed = nn.Parameter(new, requires_grad=old.requires_grad)
        embed.img_size, embed.patches_resolution, embed.num_patches = image_size, grid, grid[0] * grid[1]
        self.image_size, self.grid = image_size, grid


def _without_chunks(blocks: nn.ModuleList) -> nn.ModuleList:
    """The blocks of a DINOv2 tower, in their order: the same list if it has no chunks."""
    if not any(isinstance(part, nn.ModuleList) for part in blocks):
        return blocks
    chunks: list[Any] = list(blocks)
    return nn.ModuleList(block for chunk in chunks for block in chunk if not isinstance(block, nn.Identity))


def find_tower(model: nn.Module) -> Tower:
    """The vision tower in a CLIP model, an open_clip, timm or DINOv2 vision transformer.

    Raises:
        InputError: the vision tower is not a plain vision transformer, for example a ResNet, ConvNeXt or a transformer
            behind a convolutional stem.
    """
    visual: Any = getattr(model, "visual", model)
    trunk: Any = getattr(visual, "trunk", visual)
    if _has(visual, "conv1", "class_embedding", "positional_embedding", "ln_pre", "transformer.resblocks"):
        _check_patches(visual.conv1)
        return ClipTower(visual)
    if _has(trunk, "patch_embed.patches_resolution", "interpolate_pos_encoding", "blocks", "cls_token", "norm"):
        _check_embedding(trunk.patch_embed)
        return DinoTower(trunk)
    timm_parts = "patch_embed", "blocks", "_pos_embed", "patch_drop", "norm_pre", "norm", "num_prefix_tokens"
    if not _has(trunk, *timm_parts):
        raise InputError(
            f"the vision tower is a {type(trunk).__name__}, but adapters need a vision transformer of open_clip, timm "
            "or the OpenAI CLIP package, for example ViT-B-16"
        )
    _check_timm(trunk)
    return TimmTower(trunk, visual if hasattr(visual, "set_input_size") else trunk)


def check_size(size: int, patch: tuple[int, int]) -> None:
    """Check that square images of ``size`` pixels divide into whole patches.

    Raises:
        InputError: they do not, or ``size`` is not positive.
    """
    step = math.lcm(*patch)
    if size < 1 or size % step:
        near = sorted({max(size // step, 1) * step, max(size // step + 1, 1) * step})
        sizes = f"the sizes near it that do are {near[0]} and {near[1]}" if near[1:] else f"the nearest is {near[0]}"
        raise InputError(f"images of {size}x{size} pixels do not divide into patches of {patch[0]}x{patch[1]}; {sizes}")


def _check_timm(trunk: Any) -> None:
    """Raise InputError if the tokens of a timm tower are not a grid of patches with learned positions."""
    embed = trunk.patch_embed
    _check_embedding(embed)
    if getattr(trunk, "rope", None) is not None:
        raise InputError(
            f"this {type(trunk).__name__} rotates its queries and keys by their positions (RoPE), which no adapter was "
            "made for; take a tower with a position embedding, for example ViT-B-16"
        )
    if embed.img_size is None:
        raise InputError("this vision transformer has no fixed image size; create it with img_size")
    size, patch = _pair(embed.img_size), _pair(embed.proj.kernel_size)
    if getattr(embed, "dynamic_img_pad", False) and (size[0] % patch[0] or size[1] % patch[1]):
        raise InputError(
            f"this vision transformer pads images of {size[0]}x{size[1]} pixels to whole patches of "
            f"{patch[0]}x{patch[1]}, which no adapter was made for; create it with an img_size that needs no padding"
        )


def _check_embedding(embed: Any) -> None:
    """Raise InputError if an embedding of timm or DINOv2 is more than a convolution whose kernels lie side by side."""
    if not hasattr(embed, "proj") or hasattr(embed, "backbone"):
        raise InputError(
            f"this vision transformer embeds its images by a {type(embed).__name__}, but adapters need a single "
            "convolution, as in ViT-B-16"
        )
    _check_patches(embed.proj)
    if not isinstance(getattr(embed, "norm", None), nn.Identity):
        raise InputError("this vision transformer normalises its patch embedding, which no adapter was made for")


def _check_patches(embedding: Any) -> None:
    """Raise InputError if the patch embedding is not a convolution whose kernels lie side by side."""
    plain = isinstance(embedding, nn.Conv2d) and embedding.kernel_size == embedding.stride
    if not plain or embedding.padding != (0, 0) or embedding.dilation != (1, 1) or embedding.groups != 1:
        raise InputError(
            f"this vision transformer embeds its patches by a {type(embedding).__name__} (a hybrid tower), but "
            "adapters need a single convolution whose stride is its kernel size, as in ViT-B-16"
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
