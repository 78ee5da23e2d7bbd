"""The reference backend: the folded adapter in plain torch, for every device and dtype.

It is the fallback for all cases that no other backend can run, and what torch.export traces. Autograd differentiates
it. The compiled backends are tested against it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ht_kernels.classes import classes_of
from ht_kernels.folding import KERNEL_SIZE, FoldedAdapter, cast_matrices, image_kernels, noise_weights

from .call import Case, FilterCase, Layout, MaskCase


def can_run(case: Case) -> str | None:
    """Return None, because this backend can run every case."""
    return None


def can_filter(case: FilterCase) -> str | None:
    """Return None, because this backend can run every case."""
    return None


def can_mask(case: MaskCase) -> str | None:
    """Return None, because this backend can run every case."""
    return None


def prepare(folded: FoldedAdapter, dtype: torch.dtype, grid: tuple[int, int]) -> FoldedAdapter:
    """Return the weights with the three matrices cast to the dtype of the others, float32 or float64."""
    return cast_matrices(folded, folded.down_bias.dtype)


def infer(prepared: FoldedAdapter, x: Tensor, layout: Layout, autocast: bool) -> Tensor:
    """Compute the adapter of ``x`` (B, N, D)."""
    return adapter(x, prepared, layout)


def down_project(x: Tensor, folded: FoldedAdapter, eps: float) -> Tensor:
    """Compute the bottleneck ``h`` (B, N, C) of tokens ``x`` (B, N, D): LayerNorm, both gammas and project1."""
    mean = x.mean(-1, keepdim=True)
    centered = x - mean
    rstd = (centered.square().mean(-1, keepdim=True) + eps).rsqrt()
    u = centered * (rstd * folded.norm_gain) + x * folded.skip_gain
    return F.linear(u, folded.down_weight, folded.down_bias)


def dynamic_depthwise(s: Tensor, kernels: Tensor, bias: Tensor) -> Tensor:
    """Depthwise convolution with one kernel per image; see :func:`ht_kernels.functional.dynamic_depthwise`."""
    batch, channels, height, width = s.shape
    if batch == 0:
        return s
    # One convolution computes all images: every channel of every image is a group.
    image = s.reshape(1, batch * channels, height, width)
    kernel = kernels.flatten(0, 1).unsqueeze(1)
    y = F.conv2d(image, kernel, bias.flatten(), padding=kernels.shape[-1] // 2, groups=batch * channels)
    return y.reshape(s.shape)


def spectral_filter(x: Tensor, mask: Tensor) -> Tensor:
    """``irfft2(mask * rfft2(x))`` of ``x`` (B, C, H, W); ``mask`` (C or 1, H, W // 2 + 1, 2)."""
    if x.numel() == 0:  # torch.fft refuses empty tensors
        return x * mask.sum()
    spectrum = torch.fft.rfft2(x) * torch.view_as_complex(mask.contiguous())
    filtered: Tensor = torch.fft.irfft2(spectrum, s=x.shape[-2:])
    return filtered


def grid_to_mask(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """The classes (B, H, W) uint8 of ``logits`` (B, K, h, w) upsampled to ``size``."""
    if logits.shape[0] == 0:  # torch upsamples no empty batch
        return logits.new_empty((0, *size), dtype=torch.uint8)
    return classes_of(F.interpolate(logits, size, mode="bilinear", align_corners=False))


def mix(h: Tensor, folded: FoldedAdapter, grid: tuple[int, int], prefix_tokens: int) -> Tensor:
    """The spatial part, from ``h`` (B, N, C) to ``m`` (B, N, C). Prefix tokens pass through unchanged."""
    prefix, patches = h[:, :prefix_tokens], h[:, prefix_tokens:]
    s = patches.transpose(1, 2).reshape(h.shape[0], h.shape[2], *grid)
    f = s if folded.mask is None else spectral_filter(s, folded.mask)
    if folded.hidden_weight is None:  # one kernel for all images
        kernel, bias = folded.scale_kernels[0].unsqueeze(1), folded.scale_bias[0]
        y = F.conv2d(f, kernel, bias, padding=KERNEL_SIZE // 2, groups=s.shape[1])
    else:
        y = dynamic_depthwise(f, *image_kernels(folded, noise_weights(folded, patches.mean(1))))
    if folded.mask is not None:
        y = y + s
    return torch.cat([prefix, F.linear(y.flatten(2).transpose(1, 2), folded.mix_weight, folded.mix_bias)], dim=1)


def adapter(x: Tensor, folded: FoldedAdapter, layout: Layout, keep: Tensor | None = None) -> Tensor:
    """The whole adapter, differentiable. ``keep`` (B, N, C) holds dropout factors.

    It computes in the dtype of ``folded``, float32 or float64. The result has the dtype of ``x``.
    """
    wide = x.to(folded.up_weight.dtype)
    m = F.gelu(mix(down_project(wide, folded, layout.eps), folded, layout.grid, layout.prefix_tokens))
    if keep is not None:
        m = m * keep
    return (wide + F.linear(m, folded.up_weight, folded.up_bias)).to(x.dtype)
