"""Fully developed speckle: scatterers too many to tell apart, seen through a point-spread function.

The sum of many echoes of random phase is a circular complex Gaussian, so its magnitude has Rayleigh's distribution
with mean over standard deviation sqrt(pi / (4 - pi)) = 1.91 (Wagner, Smith, Sandrik, Lopez, "Statistics of speckle in
ultrasound B-scans", IEEE Trans. Sonics Ultrasonics 30, 1983). It is drawn here as such, one scatterer per sample.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .config import Phantom
from .scan import depths

_SIGMA = 1 / math.sqrt(8 * math.log(2))
"""Standard deviation of a Gaussian over its full width at half maximum."""


def scatterers(generator: np.random.Generator, *shape: int) -> Tensor:
    """Circular complex Gaussian numbers of mean power 1, complex64."""
    parts = generator.standard_normal((*shape, 2), dtype=np.float32)
    return torch.view_as_complex(torch.from_numpy(parts).mul_(math.sqrt(0.5)))


def blur(echoes: Tensor, config: Phantom) -> Tensor:
    """Echoes (..., samples, lines) complex64 through the point-spread function of a phantom's scan; same shape.

    A Gaussian along the line, as wide as half the pulse, and one across the lines, as wide as the beam at that
    depth. White scatterers of power 1 give speckle of power 1 at every depth.
    """
    samples, lines = echoes.shape[-2:]
    across, along = _transfer(config)
    blurred: Tensor = torch.fft.ifft(torch.fft.fft(echoes, across.shape[-1]) * across)[..., :lines]
    blurred = torch.fft.ifft(torch.fft.fft(blurred, along.shape[0], dim=-2) * along, dim=-2)[..., :samples, :]
    return blurred


def neighbour_correlation(config: Phantom) -> tuple[Tensor, Tensor]:
    """Correlation of a speckle field from sample to sample: across the lines (samples, 1), and along them (1, 1).

    The autocorrelation of the point-spread function: of a Gaussian of deviation s, exp(-d^2 / (4 s^2)) at distance d.
    """
    across, along = (torch.exp(-1 / (2 * widths * _SIGMA) ** 2)[:, None] for widths in _widths(config))
    return across, along


def _widths(config: Phantom) -> tuple[Tensor, Tensor]:
    """Full widths at half maximum in samples: across the lines (samples,), and along them (1,)."""
    scan = config.scan
    z = depths(scan)
    along = torch.tensor([config.pulse_width / (scan.depth / (scan.samples - 1))])
    return config.beam_width(z) / scan.line_spacing(z), along


@lru_cache(maxsize=4)
def _transfer(config: Phantom) -> tuple[Tensor, Tensor]:
    """Transfer functions across the lines (samples, n) and along them (n, 1); n is padded, or the ends would meet."""
    across, along = _widths(config)
    return _gaussian(across, config.scan.lines), _gaussian(along, config.scan.samples).T.contiguous()


def _gaussian(widths: Tensor, size: int) -> Tensor:
    """Spectra (len(widths), n) of Gaussians with these full widths at half maximum in samples, of unit energy."""
    padded = _fft_size(size + math.ceil(2 * float(widths.max())))
    sigma = (widths * _SIGMA)[:, None]
    exponents = -2 * (math.pi * sigma * torch.fft.fftfreq(padded)) ** 2
    spectra = torch.exp(exponents.clamp_min(-40))  # beyond lie denormal numbers, which are slow
    return spectra / spectra.square().mean(1, keepdim=True).sqrt()


def _fft_size(at_least: int) -> int:
    """The next size whose only prime factors are 2 and 3, for which transforms are fast."""
    sizes: list[int] = [2**i * 3**j for i in range(20) for j in range(6)]
    return min(size for size in sizes if size >= at_least)
