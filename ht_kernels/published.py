"""The published adapter mathematics, computed literally: the oracle in tests, the baseline in benchmarks.

Source: Qu et al., "Hybrid-tuning", arXiv 2506.08849, and the code published with it. Every step is taken as
written there, the Fourier transform included, so nothing in this file is fast and nothing should be made so.
Parameter names are those of published checkpoints.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _MultiScale(nn.Module):
    """The spatial part: frequency gain, noise weights, three depthwise convolutions, projector.

    Input and output (B, C, H, W).
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
        f = s
        if self.frequency:
            spectrum = torch.fft.rfft2(s) * self.freq_filter.view(1, -1, 1, 1)
            f = torch.fft.irfft2(spectrum, s=s.shape[-2:])
        if self.noise:
            w = self.noise_estimator(f)
            y = self.conv1(f) * w[:, 0:1] + self.conv2(f) * w[:, 1:2] + self.conv3(f) * w[:, 2:3]
        else:
            y = (self.conv1(f) + self.conv2(f) + self.conv3(f)) / 3.0
        y = y + s
        return y + self.projector(y)


class PublishedAdapter(nn.Module):
    """What the four variants share: DESIGN's formula from LayerNorm to residual.

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
        self.adapter_conv = _MultiScale(bottleneck, self.frequency, self.noise)
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
        return x + self.project2(self.dropout(F.gelu(torch.cat([prefix, m], dim=1))))


class BaselineAdapter(PublishedAdapter):
    """Variant ``baseline``: multi-scale convolutions with equal weights."""


class NoiseAwareAdapter(PublishedAdapter):
    """Variant ``noise_aware``: each image weighs the three scales by its estimated noise."""

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
