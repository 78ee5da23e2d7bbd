"""Augmentation by what differs between examinations: position and depth, gain, compression, speckle and sharpness.

The geometry is one affine map, so an image is resampled once. An image is never turned upside down, because the probe
is always at the top.
"""

from __future__ import annotations

import math
import random

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as tv  # type: ignore[import-untyped]

_DEGREES = 8.0
_ZOOM = math.log(1.28)
"""The logarithm of the largest zoom; the smallest is its inverse."""
_STRETCH = math.log(1.13)
"""The logarithm of the largest stretch of width against height."""
_SHIFT = 0.05
"""The largest shift, as a share of the side."""


def vary(image: Tensor, mask: Tensor | None, g: random.Random) -> tuple[Tensor, Tensor | None]:
    """Return an image (1 or 3, S, S) uint8 and its mask (S, S), as another examination might have given them.

    ``g`` supplies all random numbers.
    """
    pixels = image.float() / 255
    if g.random() < 0.9:
        pixels, mask = _move(pixels, mask, g)
    if g.random() < 0.7:
        pixels = pixels ** math.exp(g.uniform(-0.35, 0.35))  # another compression of the echoes
    if g.random() < 0.7:
        pixels = pixels * g.uniform(0.6, 1.5) + g.uniform(-0.05, 0.05)  # gain
    if g.random() < 0.5:
        depth = torch.linspace(-0.5, 0.5, pixels.shape[-2])[:, None]
        pixels = pixels * (1 + g.uniform(-0.6, 0.6) * depth)  # gain over depth
    if g.random() < 0.4:
        pixels = pixels * (1 + g.uniform(0.05, 0.35) * _grains(pixels, g))
    if g.random() < 0.3:
        pixels = tv.gaussian_blur(pixels, [7, 7], [g.uniform(0.5, 1.8)] * 2)
    if g.random() < 0.15:
        pixels = _coarsen(pixels, g.uniform(0.4, 0.75))
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8), mask


def _move(pixels: Tensor, mask: Tensor | None, g: random.Random) -> tuple[Tensor, Tensor | None]:
    """Mirror, turn, zoom, stretch and shift; what comes from outside the image is black and background."""
    angle = math.radians(g.gauss(0, _DEGREES))
    zoom, stretch = math.exp(g.uniform(-_ZOOM, _ZOOM)), math.exp(g.uniform(-_STRETCH, _STRETCH))
    side = g.choice((-1, 1))
    across, down = (2 * g.uniform(-_SHIFT, _SHIFT) for _ in range(2))
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    where = torch.tensor([[side * cos * stretch, -sin, across], [side * sin, cos / stretch, down]])
    grid = F.affine_grid(where[None], [1, 1, *pixels.shape[-2:]], align_corners=False)
    moved = F.grid_sample(pixels[None], grid, align_corners=False)[0]
    if mask is None:
        return moved, None
    turned = F.grid_sample(mask[None, None].float(), grid, mode="nearest", align_corners=False)[0, 0]
    return moved, turned.to(mask.dtype)


def _grains(pixels: Tensor, g: random.Random) -> Tensor:
    """Normal noise (1, S, S) whose grains are about two pixels wide, as those of speckle."""
    seeded = torch.Generator().manual_seed(g.getrandbits(63))
    height, width = pixels.shape[-2:]
    noise = torch.randn(1, 1, -(-height // 2), -(-width // 2), generator=seeded)
    return F.interpolate(noise, (height, width), mode="bilinear")[0]


def _coarsen(pixels: Tensor, share: float) -> Tensor:
    """Resample to ``share`` of the resolution and back."""
    size = pixels.shape[-2:]
    small = F.interpolate(pixels[None], [max(1, round(side * share)) for side in size], mode="bilinear", antialias=True)
    return F.interpolate(small, size, mode="bilinear")[0]
