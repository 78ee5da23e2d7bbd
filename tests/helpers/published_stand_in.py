"""A model as published code builds it, from its description: adapters under ``mona``, block forwards replaced.

Shares no class with the library, so only structure can be recognised.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.small_towers import DIM, IMAGE, OpenAIVisionTransformer, small_tower


class SpatialPart(nn.Module):
    def __init__(self, width: int, frequency: bool, noise: bool) -> None:
        super().__init__()
        for i, side in enumerate((3, 5, 7), 1):
            setattr(self, f"conv{i}", nn.Conv2d(width, width, side, padding=side // 2, groups=width))
        self.projector = nn.Conv2d(width, width, 1)
        if frequency:
            self.freq_filter = nn.Parameter(torch.ones(width))
        if noise:
            mlp = nn.Conv2d(width, width // 4, 1), nn.ReLU(inplace=True), nn.Conv2d(width // 4, 3, 1), nn.Softmax(1)
            self.noise_estimator = nn.Sequential(nn.AdaptiveAvgPool2d(1), *mlp)

    def forward(self, s: Tensor) -> Tensor:
        f = s
        if hasattr(self, "freq_filter"):
            f = torch.fft.irfft2(torch.fft.rfft2(s) * self.freq_filter.view(1, -1, 1, 1), s=s.shape[-2:])
        scales = torch.stack([self.conv1(f), self.conv2(f), self.conv3(f)], 1)
        if hasattr(self, "noise_estimator"):
            y = (scales * self.noise_estimator(f).unsqueeze(2)).sum(1) + s
        else:
            y = scales.mean(1) + s
        return y + self.projector(y)


class SequenceFirstAdapter(nn.Module):
    """Takes (N, B, D)."""

    def __init__(self, dim: int, width: int, frequency: bool = True, noise: bool = True) -> None:
        super().__init__()
        self.project1 = nn.Linear(dim, width)
        self.project2 = nn.Linear(width, dim)
        self.dropout = nn.Dropout(0.1)
        self.adapter_conv = SpatialPart(width, frequency, noise)
        self.norm = nn.LayerNorm(dim)
        self.gamma = nn.Parameter(torch.full((dim,), 1e-6))
        self.gammax = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, hw_shapes: tuple[int, int] | None = None) -> Tensor:
        t = x.transpose(0, 1)
        return self.adapt(t, hw_shapes).transpose(0, 1)

    def adapt(self, t: Tensor, hw_shapes: tuple[int, int] | None) -> Tensor:
        h = self.project1(self.norm(t) * self.gamma + t * self.gammax)
        prefix = 1 if hw_shapes else 0
        grid = hw_shapes or (math.isqrt(t.shape[1]),) * 2
        image = h[:, prefix:].transpose(1, 2).unflatten(2, grid)
        m = torch.cat([h[:, :prefix], self.adapter_conv(image).flatten(2).transpose(1, 2)], 1)
        return t + self.project2(self.dropout(F.gelu(m)))


class BatchFirstPlain(SequenceFirstAdapter):
    """Takes (B, N, D)."""

    def forward(self, x: Tensor, hw_shapes: tuple[int, int] | None = None) -> Tensor:
        return self.adapt(x, hw_shapes)


class Wrapper(nn.Module):
    """Batch first around sequence first."""

    def __init__(self, adapter: nn.Module) -> None:
        super().__init__()
        self.clip_mona = adapter

    def forward(self, x: Tensor, hw_shapes: tuple[int, int] | None = None) -> Tensor:
        return self.clip_mona(x.transpose(0, 1), hw_shapes).transpose(0, 1)


class PlainWrapper(Wrapper):
    """Batch first around batch first."""

    def forward(self, x: Tensor, hw_shapes: tuple[int, int] | None = None) -> Tensor:
        return self.clip_mona(x, hw_shapes)


FORMS = {
    "timm": ("timm", lambda *args: Wrapper(SequenceFirstAdapter(*args))),
    "open_clip": ("open_clip", lambda *args: Wrapper(SequenceFirstAdapter(*args))),
    "openai": ("openai", SequenceFirstAdapter),
    "timm, batch first throughout": ("timm", lambda *args: PlainWrapper(BatchFirstPlain(*args))),
}


def build(form: str, frequency: bool = True, noise: bool = True, width: int = 8) -> nn.Module:
    """A small CLIP model with adapters behind its blocks, every parameter random, only adapters trainable."""
    tower, make = FORMS[form]
    model = small_tower(tower).float()
    visual = getattr(model.visual, "trunk", model.visual)
    blocks = visual.blocks if hasattr(visual, "blocks") else visual.transformer.resblocks
    torch.manual_seed(1)
    for block in blocks:
        block.mona = make(DIM, width, frequency, noise)
        for parameter in block.mona.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        block.forward = _replaced(block, block.forward)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("mona" in name)
    return model


def _replaced(block, forward, grid=(4, 4)):  # type: ignore[no-untyped-def]
    def with_adapter(x: Tensor, **options: object) -> Tensor:
        return block.mona(forward(x, **options), grid)

    return with_adapter


class TaskModel(nn.Module):
    """A published model for a task around a CLIP model with adapters: a pyramid, and both heads in one of their forms.

    ``written`` and ``read`` are what published code saves and how it loads that. ``dim`` is the width of the tower,
    ``side`` that of its images.
    """

    def __init__(
        self,
        clip_model: nn.Module,
        task: str,
        layers: tuple[int, ...],
        classes: int,
        width: int,
        dim: int = DIM,
        side: int = IMAGE,
    ) -> None:
        super().__init__()
        self.clip_model, self.task, self.extract_layers = clip_model, task, list(layers)
        self.reduces = nn.ModuleList(nn.Linear(dim, width) for _ in layers)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
            for _ in layers
        )
        self.seg_head = nn.Sequential(nn.Upsample((side, side), mode="bilinear"), nn.Conv2d(width, classes, 1))
        sequence_first = isinstance(clip_model.visual, OpenAIVisionTransformer)
        mlp = [nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.1)] if sequence_first else [nn.Dropout(0.5)]
        self.cls_head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *mlp, nn.Linear(width, classes))

    @property
    def head(self) -> str:
        return "seg_head" if self.task == "segmentation" else "cls_head"

    def forward(self, images: Tensor) -> Tensor:
        visual, found = self.clip_model.visual, []
        trunk = getattr(visual, "trunk", None)
        sequence_first = isinstance(visual, OpenAIVisionTransformer)
        for i, block in enumerate(trunk.blocks if trunk else visual.transformer.resblocks):
            if i == 0:
                x = trunk._pos_embed(trunk.patch_embed(images)) if trunk else self._embed(visual, images)
                x = x.transpose(0, 1) if sequence_first else x
            x = block(x)
            if i in self.extract_layers:
                found.append((x.transpose(0, 1) if sequence_first else x)[:, 1:])
        levels = [block(reduce(x)) for x, reduce, block in zip(found, self.reduces, self.blocks, strict=True)]
        read = sum(levels).transpose(1, 2)
        return getattr(self, self.head)(read.unflatten(2, (math.isqrt(read.shape[2]),) * 2))

    @staticmethod
    def _embed(visual: nn.Module, images: Tensor) -> Tensor:
        patches = visual.conv1(images).flatten(2).transpose(1, 2)
        cls = visual.class_embedding.expand(len(images), 1, -1)
        return visual.ln_pre(torch.cat([cls, patches], 1) + visual.positional_embedding)

    def written(self) -> dict[str, dict[str, Tensor]]:
        parts = {name: getattr(self, name).state_dict() for name in ("reduces", "blocks", self.head)}
        return {**parts, "mona": {name: p.data for name, p in self.named_parameters() if "mona" in name}}

    def read(self, parts: dict[str, dict[str, Tensor]]) -> None:
        for name in ("reduces", "blocks", self.head):
            getattr(self, name).load_state_dict(parts[name])
        for name, parameter in self.named_parameters():
            if "mona" in name:
                assert parts["mona"][name].shape == parameter.shape
                parameter.data = parts["mona"][name]


def task_model(form: str, task: str) -> TaskModel:
    """A task model around :func:`build`, whose last block nothing reads."""
    clip_model = build(form)
    torch.manual_seed(2)
    return TaskModel(clip_model, task, (0, 1, 2), classes=2, width=12)


def segmentation_model(backbone: str, width: int = 512) -> TaskModel:
    """A whole published segmentation model on a ViT of open_clip by its name, with the published sizes.

    Weights are random, blocks 3, 6 and 9 are read, and only adapters and heads are trainable.
    """
    import open_clip

    torch.manual_seed(3)
    clip_model = open_clip.create_model(backbone).requires_grad_(False)
    visual = clip_model.visual
    side, dim = visual.image_size[0], visual.conv1.out_channels
    for block in visual.transformer.resblocks:
        block.mona = Wrapper(SequenceFirstAdapter(dim, 64))
        block.forward = _replaced(block, block.forward, visual.grid_size)
    return TaskModel(clip_model, "segmentation", (3, 6, 9), 2, width, dim, side)
