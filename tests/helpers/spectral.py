"""Spectral filters and adapters with them, against torch.fft."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import ht_kernels as ht
from helpers.adapters import run_adapter
from helpers.small_towers import shake
from ht_kernels.folding import radial_mask
from ht_kernels.functional import spectral_filter


def by_fft(x: Tensor, mask: Tensor) -> Tensor:
    return torch.fft.irfft2(torch.fft.rfft2(x) * mask, s=x.shape[-2:])


def random_mask(form: str, channels: int, grid: tuple[int, int], is_complex: bool) -> Tensor:
    rows = channels if form == "full" else 1
    dtype = torch.complex128 if is_complex else torch.float64
    return torch.randn(rows, grid[0], grid[1] // 2 + 1, dtype=dtype)


def results(x: Tensor, mask: Tensor, form: str, grad: Tensor, backend: str | None) -> list[Tensor]:
    """Output and both gradients; by torch.fft without a backend."""
    x, mask = x.detach().requires_grad_(), mask.detach().requires_grad_()
    out = by_fft(x, mask) if backend is None else spectral_filter(x, mask, form, backend=backend)
    out.backward(grad)
    assert x.grad is not None and mask.grad is not None
    return [out.detach(), x.grad, mask.grad]


def oracle(adapter: ht.HTAdapter, x: Tensor, grid: tuple[int, int], prefix: int) -> Tensor:
    """The design's formula with the filter by torch.fft, on the adapter's own parameters."""
    conv = adapter.adapter_conv
    filter_ = conv.spectral
    mask = radial_mask(filter_.mask, grid) if filter_.form == "radial" else torch.view_as_complex(filter_.mask)
    h = adapter.project1(adapter.norm(x) * adapter.gamma + x * adapter.gammax)
    s = h[:, prefix:].transpose(1, 2).reshape(x.shape[0], -1, *grid)
    f = by_fft(s, mask)
    scales = [conv.conv1(f), conv.conv2(f), conv.conv3(f)]
    w = conv.noise_estimator(f) if adapter.noise else x.new_full((x.shape[0], 3, 1, 1), 1 / 3)
    y = sum((w[:, i : i + 1] * scale for i, scale in enumerate(scales)), s)
    m = (y + conv.projector(y)).flatten(2).transpose(1, 2)
    out: Tensor = x + adapter.project2(F.gelu(torch.cat([h[:, :prefix], m], 1)))
    return out


def spectral_adapter(dim: int, bottleneck: int, variant: str, form: str, grid: tuple[int, int]) -> ht.HTAdapter:
    """In float64, every parameter away from where it starts."""
    return shake(ht.HTAdapter(dim, bottleneck, variant, form, grid=grid)).double().eval()


def run_oracle(adapter: ht.HTAdapter, x: Tensor, grid: tuple[int, int], prefix: int, grad: Tensor) -> dict[str, Tensor]:
    """What :func:`helpers.adapters.run_adapter` gives, by the design's formula."""
    return run_adapter(adapter, x, grid, prefix, grad, lambda *tokens: oracle(adapter, *tokens))
