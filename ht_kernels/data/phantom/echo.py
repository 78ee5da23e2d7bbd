"""From tissue and scatterers to what a scanner shows: attenuation, noise, interference, compensation, compression."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .config import Phantom
from .scan import beam_grid, depths
from .speckle import blur, scatterers

_DB = math.log(10) / 20
"""Natural logarithm of an amplitude ratio of 1 dB."""


def excess_loss(config: Phantom, attenuation: Tensor) -> Tensor:
    """Loss of echoes, there and back, beyond that in tissue, in dB, from attenuation relative to that of tissue.

    Both are (samples, lines).

    The integral of the attenuation coefficient along the line, times the frequency and 2 for the way back (Szabo,
    Diagnostic Ultrasound Imaging, chapter 4). So a lesion that attenuates less than tissue is followed by
    enhancement, and one that attenuates more by a shadow.
    """
    step = config.attenuation_slope / 10 * config.scan.depth / (config.scan.samples - 1)
    return torch.cumsum(attenuation - 1, 0) * step


def envelope(config: Phantom, level: Tensor, excess: Tensor, field: Tensor, noise: np.random.Generator) -> Tensor:
    """Magnitude of the compensated echoes, (samples, lines) float32; mean square 1 for tissue of 0 dB and one look.

    Args:
        config: the phantom.
        level: echogenicity in dB, (samples, lines).
        excess: loss beyond that in tissue in dB, (samples, lines), see :func:`excess_loss`.
        field: scatterers of power 1, (looks, samples, lines) complex64.
        noise: where electronic noise comes from.
    """
    z = depths(config.scan)[:, None] / 10  # cm
    # Attenuation by tissue, which depends on depth alone, comes after the transforms: their rounding errors would drown
    # deep echoes that were weakened before.
    echoes = blur(field * torch.exp((level - excess) * _DB), config) * torch.exp(z * (-config.attenuation_slope * _DB))
    echoes += scatterers(noise, *echoes.shape) * math.exp(config.noise * _DB)
    slope = config.attenuation_slope if config.tgc is None else config.tgc
    swing = torch.zeros(())
    if config.interference is not None:
        u, v = beam_grid(config.scan)
        down, across = config.interference.cycles
        wave = torch.cos(math.pi * (down * (v + 1) + across * (u + 1)))
        if config.interference.kind == "stripes":
            swing = wave * config.interference.level
        else:
            # The level is relative to tissue of 0 dB in the image, so the compensation below is undone here beforehand.
            undone = torch.exp(z * (-slope * _DB))
            echoes += (0.5 + 0.5 * wave) * undone * math.exp(config.interference.level * _DB)
    return echoes.abs().mean(0) * torch.exp((z * slope + swing) * _DB)


def compress(config: Phantom, amplitude: Tensor) -> Tensor:
    """Log compression: amplitudes to [0, 1] float32, 0 at the bottom of the dynamic range and 1 at its top."""
    decibels = torch.log(amplitude.clamp_min(1e-12)) * (1 / _DB)
    return ((decibels + config.gain) * (1 / config.dynamic_range) + 1).clamp_(0, 1)
