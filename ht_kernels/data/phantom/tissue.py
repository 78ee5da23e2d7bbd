"""The background: layers of tissue with wavy borders, fascia between them, and strands of connective tissue.

Echogenicity is in dB; it is drawn in beam coordinates, for tissue lies along the probe's face.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .config import Phantom
from .scan import Scan, beam_grid


@dataclass(frozen=True)
class _Layer:
    """Thickness as a share of the depth, echogenicity, how uneven it is, and its strands, in dB."""

    thickness: tuple[float, float]
    level: tuple[float, float]
    unevenness: float
    strands: float


_LAYERS = (
    _Layer((0.02, 0.05), (5, 9), 1.0, 0),  # skin
    _Layer((0.08, 0.22), (-9, -4), 2.0, 17),  # fat under the skin
    _Layer((0.25, 0.5), (-3, 3), 4.0, 11),  # gland
    _Layer((0.05, 0.2), (-9, -4), 2.5, 16),  # fat behind the gland
    _Layer((0.15, 0.3), (-12, -6), 2.0, 20),  # muscle
    _Layer((1.0, 1.0), (-22, -10), 3.0, 8),  # chest wall
)


def draw_tissue(config: Phantom, generator: np.random.Generator) -> Tensor:
    """Echogenicity of the background in dB, (samples, lines) float32; 0 everywhere for a phantom without layers."""
    scan = config.scan
    if not config.layers:
        return torch.zeros(scan.samples, scan.lines)
    u, v = beam_grid(scan)
    share = (v + 1) / 2
    tilt = generator.normal(0, 0.06)
    level = torch.zeros_like(v)
    unevenness, strands, fascia = torch.zeros_like(v), torch.zeros_like(v), torch.zeros_like(v)
    border = torch.full((scan.lines,), -1.0)
    top = 0.0
    for layer in _LAYERS:
        drawn = generator.uniform(*layer.level)
        inside = torch.sigmoid((share - border) * 150)
        level += inside * (drawn - level)
        unevenness += inside * (layer.unevenness - unevenness)
        strands += inside * (layer.strands - strands)
        width = generator.uniform(0.003, 0.006)
        fascia += generator.uniform(4, 18) * _ridge((share - border) / width)
        top += generator.uniform(*layer.thickness)
        border = top + top * (tilt * u[0] + _wave(scan.lines, generator))
    rough = _smooth_noise(scan, (30, 7), generator)
    fine = _smooth_noise(scan, (64, 26), generator)
    # The zero set of a smooth random field is a family of curves: strands that wind through the tissue.
    field = _smooth_noise(scan, (40, 4), generator) + 0.2 * fine
    brightness = torch.sigmoid(2 * _smooth_noise(scan, (14, 7), generator))
    strand = _ridge(field / 0.25) * brightness
    coupling = 4 * F.softplus(_smooth_noise(scan, (1, 6), generator) - 0.6)
    return level + unevenness * (0.8 * rough + 0.5 * fine) + strands * strand + fascia * brightness - coupling


def _ridge(distance: Tensor) -> Tensor:
    """1 at distance 0, a quarter at 1, falling off smoothly."""
    return 1 / (1 + distance**2) ** 2


def _wave(lines: int, generator: np.random.Generator) -> Tensor:
    """A gentle wave across the lines, standard deviation about 0.13."""
    phase = torch.linspace(0, 2 * math.pi, lines)
    wave = torch.zeros(lines)
    for k in (0.5, 1.0, 1.7, 2.6):
        wave += generator.normal(0, 0.08 / k) * torch.sin(k * phase + generator.uniform(0, 2 * math.pi))
    return wave


def _smooth_noise(scan: Scan, cells: tuple[int, int], generator: np.random.Generator) -> Tensor:
    """Smooth Gaussian noise with this many cells in depth and across, (samples, lines), standard deviation about 1."""
    coarse = torch.from_numpy(generator.standard_normal((cells[0] + 1, cells[1] + 1), dtype=np.float32))
    return _interpolation(scan.samples, cells[0] + 1) @ coarse @ _interpolation(scan.lines, cells[1] + 1).T


@lru_cache(maxsize=64)
def _interpolation(size: int, nodes: int) -> Tensor:
    """Weights (size, nodes) of bicubic interpolation, scaled to keep the mean variance of white noise."""
    identity = torch.eye(nodes)[:, None, None]
    weights = F.interpolate(identity, size=(1, size), mode="bicubic", align_corners=True)[:, 0, 0].T
    return weights / weights.square().sum(1).mean().sqrt()
