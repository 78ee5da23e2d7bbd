"""The published code as one would run it on a GPU in 16 bits.

torch has no Fourier transform in bfloat16, and in float16 only for powers of two. So published models in 16 bits must
compute the transform in float32. This file adds that cast and nothing else.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ht_kernels import published


class _Float32Transform(nn.Module):
    """A published spatial part whose Fourier transform runs in float32."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, s: Tensor) -> Tensor:
        conv = self.conv
        spectrum = torch.fft.rfft2(s.float()) * conv.freq_filter.float().view(1, -1, 1, 1)
        f = torch.fft.irfft2(spectrum, s=s.shape[-2:]).to(s.dtype)
        if conv.noise:
            w = conv.noise_estimator(f)
            y = conv.conv1(f) * w[:, 0:1] + conv.conv2(f) * w[:, 1:2] + conv.conv3(f) * w[:, 2:3]
        else:
            y = (conv.conv1(f) + conv.conv2(f) + conv.conv3(f)) / 3.0
        y = y + s
        return y + conv.projector(y)


def in_dtype(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy of a published adapter, or of a model with such adapters, with parameters in ``dtype``."""
    module = copy.deepcopy(module).to(dtype)
    if dtype in (torch.float16, torch.bfloat16):
        for part in list(module.modules()):
            if isinstance(part, published.PublishedAdapter) and part.frequency:
                part.adapter_conv = _Float32Transform(part.adapter_conv)
    return module
