"""Vision towers small enough for float64, in the three structures that CLIP models come in.

open_clip is imported only where one of its towers is made, so that tests of kernels run on a machine without it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import timm.models.eva as timm_eva
import timm.models.vision_transformer as timm_vit
import torch
from timm.layers import GluMlp, SwiGLU, SwiGLUPacked
from torch import nn

DIM, DEPTH, HEADS, IMAGE, PATCH = 32, 4, 4, 64, 16


class QuickGELU(nn.Module):
    """OpenAI's approximation of GELU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class SequenceFirstBlock(nn.Module):
    """Pre-norm block on (N, B, D), as the original OpenAI package has it."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(DIM, HEADS)
        self.ln_1 = nn.LayerNorm(DIM)
        layers = {"c_fc": nn.Linear(DIM, 2 * DIM), "gelu": QuickGELU(), "c_proj": nn.Linear(2 * DIM, DIM)}
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.ln_2 = nn.LayerNorm(DIM)
        self.attn_mask = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class SequenceFirstTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.width = DIM
        self.resblocks = nn.Sequential(*(SequenceFirstBlock() for _ in range(DEPTH)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.resblocks(x)


class OpenAIVisionTransformer(nn.Module):
    """A stand-in with the attribute names and the token order of the original OpenAI package."""

    def __init__(self) -> None:
        super().__init__()
        self.input_resolution = IMAGE
        self.conv1 = nn.Conv2d(3, DIM, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(DIM))
        self.positional_embedding = nn.Parameter(torch.randn((IMAGE // PATCH) ** 2 + 1, DIM))
        self.ln_pre = nn.LayerNorm(DIM)
        self.transformer = SequenceFirstTransformer()
        self.ln_post = nn.LayerNorm(DIM)
        self.proj = nn.Parameter(torch.randn(DIM, 8))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.conv1(images).flatten(2).transpose(1, 2)
        cls = self.class_embedding.expand(x.shape[0], 1, -1)
        x = self.ln_pre(torch.cat([cls, x], 1) + self.positional_embedding)
        x = self.transformer(x.transpose(0, 1)).transpose(0, 1)
        return self.ln_post(x[:, 0]) @ self.proj


class Clip(nn.Module):
    """What surrounds a vision tower: ``visual`` and a text side."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual
        self.token_embedding = nn.Embedding(10, 8)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return self.visual(images)


class Trunk(nn.Module):
    """open_clip's wrapper around a timm model."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Sequential()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(images))


class Chunk(nn.ModuleList):
    """Some of the blocks of a :class:`DinoVisionTransformer`, called as one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self:
            x = block(x)
        return x


class DinoVisionTransformer(nn.Module):
    """A stand-in with the attribute names of DINOv2's own code, as torch.hub gives it.

    Args:
        chunks: into how many lists the blocks are split; 0 for none. Identities in a list stand for the blocks before.
        registers: the number of register tokens.
        image: the side of the images that its positions are made for.
    """

    def __init__(self, chunks: int = 0, registers: int = 0, image: int = IMAGE) -> None:
        super().__init__()
        self.patch_size, side = PATCH, image // PATCH
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, DIM, PATCH, PATCH)
        self.patch_embed.norm = nn.Identity()
        self.patch_embed.img_size, self.patch_embed.patches_resolution = (image, image), (side, side)
        self.patch_embed.num_patches = side * side
        self.cls_token = nn.Parameter(torch.randn(1, 1, DIM))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + side * side, DIM))
        self.register_tokens = nn.Parameter(torch.randn(1, registers, DIM)) if registers else None
        self.mask_token = nn.Parameter(torch.zeros(1, DIM))
        blocks = [timm_vit.Block(DIM, HEADS, 2, qkv_bias=True, init_values=0.5) for _ in range(DEPTH)]
        step = DEPTH // chunks if chunks else DEPTH
        parts = [Chunk([nn.Identity()] * i + blocks[i : i + step]) for i in range(0, DEPTH, step)]
        self.blocks = nn.ModuleList(parts if chunks else blocks)
        self.norm = nn.LayerNorm(DIM)
        self.head = nn.Identity()

    def interpolate_pos_encoding(self, x: torch.Tensor, width: int, height: int) -> torch.Tensor:
        """The positions (1, N, D) for tokens x (B, N, D) of images (B, 3, width, height)."""
        if x.shape[1] == self.pos_embed.shape[1] and width == height:
            return self.pos_embed
        side, grid = int((self.pos_embed.shape[1] - 1) ** 0.5), (width // PATCH, height // PATCH)
        square = self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        patches = nn.functional.interpolate(square, grid, mode="bicubic").flatten(2).transpose(1, 2)
        return torch.cat([self.pos_embed[:, :1], patches], 1)

    def prepare_tokens_with_masks(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed.proj(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        x = x + self.interpolate_pos_encoding(x, *images.shape[2:])
        if self.register_tokens is None:
            return x
        return torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.prepare_tokens_with_masks(images)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def _open_clip(**options: object) -> nn.Module:
    from open_clip.transformer import VisionTransformer

    return Clip(VisionTransformer(IMAGE, PATCH, DIM, DEPTH, HEADS, mlp_ratio=2.0, output_dim=8, **options))


def timm_tower(**options: object) -> nn.Module:
    size = options.pop("img_size", IMAGE)
    return timm_vit.VisionTransformer(
        img_size=size,
        patch_size=PATCH,
        embed_dim=DIM,
        depth=DEPTH,
        num_heads=HEADS,
        mlp_ratio=2,
        num_classes=0,
        **options,
    )


def eva_tower(**options: object) -> nn.Module:
    sizes = {"img_size": IMAGE, "patch_size": PATCH, "embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS}
    return timm_eva.Eva(**{**sizes, **options}, mlp_ratio=2, num_classes=0, use_rot_pos_emb=False)


TOWERS: dict[str, Callable[[], nn.Module]] = {
    "open_clip": _open_clip,
    "timm": lambda: Clip(Trunk(timm_tower())),
    "openai": lambda: Clip(OpenAIVisionTransformer()),
}
"""The three structures."""

MORE_TOWERS: dict[str, Callable[[], nn.Module]] = {
    "open_clip, layer scale, quick gelu": lambda: _open_clip(ls_init_value=0.5, act_layer=QuickGELU),
    "open_clip, no pre-norm": lambda: _open_clip(no_ln_pre=True),
    "timm, bare": timm_tower,
    "timm, registers, layer scale, pre-norm": lambda: timm_tower(reg_tokens=3, init_values=0.5, pre_norm=True),
    "timm, no prefix": lambda: timm_tower(class_token=False, global_pool="avg"),
    "timm, not square": lambda: timm_tower(img_size=(48, 80), no_embed_class=True, qkv_bias=False),
    "timm, dynamic size": lambda: timm_tower(dynamic_img_size=True),
    "timm, normalised queries and keys": lambda: timm_tower(qk_norm=True),
    "timm, packed SwiGLU": lambda: timm_tower(mlp_layer=SwiGLUPacked, act_layer=nn.SiLU),
    "timm, gate last": lambda: timm_tower(mlp_layer=GluMlp, act_layer=nn.SiLU),
    "timm, SwiGLU": lambda: timm_tower(mlp_layer=SwiGLU, act_layer=nn.SiLU, qkv_bias=False),
    "dino": lambda: DinoVisionTransformer(),
    "dino, chunks, registers": lambda: DinoVisionTransformer(chunks=2, registers=3),
    "eva": lambda: eva_tower(init_values=0.5),
    "eva, parts": lambda: eva_tower(qkv_fused=False, qk_norm=True, swiglu_mlp=True),
}
"""What else towers may have."""


def small_tower(name: str, seed: int = 0) -> nn.Module:
    """A tower in float64 whose parameters are all random, so that no term is zero by initialisation."""
    torch.manual_seed(seed)
    model = {**TOWERS, **MORE_TOWERS}[name]().double()
    return shake(model)


def small_clip(name: str = "open_clip", seed: int = 0) -> nn.Module:
    """The same with a text tower, and a projection to embeddings of 8 numbers."""
    import open_clip

    tower = small_tower(name, seed)
    text = {"context_length": 16, "width": DIM, "heads": HEADS, "layers": 2}
    vision = {"image_size": IMAGE, "patch_size": PATCH, "width": DIM, "layers": DEPTH, "head_width": DIM // HEADS}
    model = open_clip.CLIP(8, vision, text).double()
    if name.startswith("timm"):
        tower.visual.head = shake(nn.Sequential(nn.Dropout(0.5), nn.Linear(DIM, 8)).double())
    model.visual = tower.visual
    return model


def shake(module: nn.Module) -> nn.Module:
    """Move every parameter by a random amount."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return module
