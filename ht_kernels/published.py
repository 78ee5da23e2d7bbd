"""The published mathematics, computed literally: the oracle in tests and the baseline in benchmarks.

The source is Qu et al., "Hybrid-tuning", arXiv 2506.08849, and the code published with it. Every step is computed as
written there, including the Fourier transform. So nothing in this file is fast, and nothing should be made faster.
Parameter names are those of published checkpoints.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MultiScale(nn.Module):
    """The spatial part: frequency gain, noise weights, three depthwise convolutions and the projector.

    It maps (B, C, H, W) to the same shape.
    """

    def __init__(self, channels: int, frequency: bool, noise: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.conv2 = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.conv3 = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.projector = nn.Conv2d(channels, channels, 1)
        if frequency:
            self.freq_filter = nn.Parameter(torch.ones(channels))
        if noise:
            self.noise_estimator = nn.Sequential(
                nn.AdaptiveAvgPool2d(1),
                nn.Conv2d(channels, channels // 4, 1),
                nn.ReLU(),
                nn.Conv2d(channels // 4, 3, 1),
                nn.Softmax(dim=1),
            )
        self.frequency = frequency
        self.noise = noise

    def forward(self, s: Tensor) -> Tensor:
        f = self.filtered(s) if self.frequency else s
        if self.noise:
            w = self.noise_estimator(f)
            y = self.conv1(f) * w[:, 0:1] + self.conv2(f) * w[:, 1:2] + self.conv3(f) * w[:, 2:3]
        else:
            y = (self.conv1(f) + self.conv2(f) + self.conv3(f)) / 3.0
        y = y + s
        m: Tensor = y + self.projector(y)
        return m

    def filtered(self, s: Tensor) -> Tensor:
        """Apply the frequency filter to ``s`` (B, C, H, W)."""
        spectrum = torch.fft.rfft2(s) * self.freq_filter.view(1, -1, 1, 1)
        image: Tensor = torch.fft.irfft2(spectrum, s=s.shape[-2:])
        return image


class PublishedAdapter(nn.Module):
    """The computation that the four variants share: the formula of docs/algebra.md, from LayerNorm to residual.

    Args:
        dim: token width D.
        bottleneck: bottleneck width C.
        dropout: probability of the dropout before ``project2``, in training only.
    """

    frequency = False
    noise = False

    def __init__(self, dim: int, bottleneck: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        self.project1 = nn.Linear(dim, bottleneck)
        self.project2 = nn.Linear(bottleneck, dim)
        self.dropout = nn.Dropout(dropout)
        self.adapter_conv = MultiScale(bottleneck, self.frequency, self.noise)
        self.norm = nn.LayerNorm(dim)
        self.gamma = nn.Parameter(torch.full((dim,), 1e-6))
        self.gammax = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, grid: tuple[int, int], prefix_tokens: int = 1) -> Tensor:
        """Adapt tokens ``x`` (B, P + H*W, D) on a patch grid (H, W); the result has the shape of ``x``."""
        height, width = grid
        h = self.project1(self.norm(x) * self.gamma + x * self.gammax)
        prefix, patches = h[:, :prefix_tokens], h[:, prefix_tokens:]
        s = patches.transpose(1, 2).reshape(x.shape[0], h.shape[-1], height, width)
        m = self.adapter_conv(s).flatten(2).transpose(1, 2)
        out: Tensor = x + self.project2(self.dropout(F.gelu(torch.cat([prefix, m], dim=1))))
        return out


class BaselineAdapter(PublishedAdapter):
    """Variant ``baseline``: multi-scale convolutions with equal weights."""


class NoiseAwareAdapter(PublishedAdapter):
    """Variant ``noise_aware``: the weights of the three scales depend on the estimated noise of the image."""

    noise = True


class FrequencyAdapter(PublishedAdapter):
    """Variant ``freq_enhanced``: a learned gain per channel, applied to the spectrum."""

    frequency = True


class HybridAdapter(PublishedAdapter):
    """Variant ``hybrid``: frequency gain, then noise-weighted scales."""

    frequency = True
    noise = True


VARIANTS: dict[str, type[PublishedAdapter]] = {
    "baseline": BaselineAdapter,
    "noise_aware": NoiseAwareAdapter,
    "freq_enhanced": FrequencyAdapter,
    "hybrid": HybridAdapter,
}


class PublishedHTCLIP(nn.Module):
    """HTCLIP, built and computed as in the published code; :meth:`like` makes it.

    All blocks of the tower run, with unfused adapters. The final norm runs although no head reads it. Segmentation
    upsamples all pyramid channels before the 1x1 convolution.

    ``model(images)`` takes floating-point images (B, 3, H, W) in [0, 1] and returns logits (B, K, H, W) or (B, K).
    """

    def __init__(
        self, tower: Any, reduces: nn.ModuleList, blocks: nn.ModuleList, head: nn.Sequential, layers: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.tower = tower
        self.visual = tower.visual
        self.reduces = reduces
        self.blocks = blocks
        self.feature_layers = layers
        self.add_module("seg_head" if isinstance(head[0], nn.Upsample) else "cls_head", head)

    @property
    def head(self) -> nn.Sequential:
        """``seg_head`` or ``cls_head``."""
        head: Any = self.seg_head if hasattr(self, "seg_head") else self.cls_head
        return head  # type: ignore[no-any-return]

    @property
    def adapters(self) -> dict[int, Any]:
        """The adapters by block index."""
        return {i: block.mona for i, block in enumerate(self.tower.blocks) if hasattr(block, "mona")}

    @classmethod
    def like(cls, model: Any) -> PublishedHTCLIP:
        """Make a model with copies of the weights of an ``HTCLIP``, in the same mode (training or evaluation)."""
        tower = copy.deepcopy(model.tower)
        config = model.config
        if config.task == "segmentation":
            convolution = copy.deepcopy(model.seg_head[1])
            upsample = nn.Upsample(tower.image_size, mode="bilinear", align_corners=False)
            head = nn.Sequential(upsample, convolution)
        else:
            head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *copy.deepcopy(list(model.cls_head))[2:])
        layers = config.feature_layers
        published = cls(tower, copy.deepcopy(model.reduces), copy.deepcopy(model.blocks), head, layers)
        for block in tower.blocks:
            if not hasattr(block, "mona"):
                continue
            ours = getattr(block.mona, "clip_mona", block.mona)
            weight = ours.project1.weight
            adapter = VARIANTS[ours.variant](tower.dim, weight.shape[0], ours.dropout.p).to(weight.device, weight.dtype)
            adapter.load_state_dict(ours.state_dict())
            block.mona = adapter.train(ours.training).requires_grad_(weight.requires_grad)
            block._forward_hooks.clear()
            adapted = _adapted if tower.batch_first else _adapted_sequence_first
            block.forward = partial(adapted, block, tower.grid, tower.prefix_tokens)
        return published.train(model.training)

    def train(self, mode: bool = True) -> PublishedHTCLIP:
        """Set the mode of adapters and heads. The frozen tower stays in evaluation mode."""
        super().train(mode)
        self.visual.eval()
        for adapter in self.adapters.values():
            adapter.train(mode)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K, H, W) for segmentation or (B, K) for classification."""
        tower = self.tower
        x = tower.embed(images)
        activations = []
        for i, block in enumerate(tower.blocks):
            x = block(x)
            if i in self.feature_layers:
                activations.append(x.clone())
        tower.finish(x)
        total: Tensor | None = None
        for activation, reduce, block in zip(activations[::-1], self.reduces[::-1], self.blocks[::-1], strict=True):
            level = block(reduce(tower.patches(activation)))
            total = level if total is None else level + total
        assert total is not None
        logits: Tensor = self.head(total.transpose(1, 2).view(*total.shape[::2], *tower.grid))
        return logits


def _adapted(block: Any, grid: tuple[int, int], prefix_tokens: int, x: Tensor) -> Tensor:
    """A block and its adapter: published code replaces the ``forward`` of blocks by such a function."""
    tokens: Tensor = block.mona(type(block).forward(block, x), grid, prefix_tokens)
    return tokens


def _adapted_sequence_first(block: Any, grid: tuple[int, int], prefix_tokens: int, x: Tensor) -> Tensor:
    """The same for blocks that take tokens (N, B, D)."""
    tokens: Tensor = block.mona(type(block).forward(block, x).transpose(0, 1), grid, prefix_tokens)
    return tokens.transpose(0, 1)
