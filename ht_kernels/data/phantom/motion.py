"""Motion of tissue in a clip, as a map from where a point is to where it was in the first frame.

The map is in closed form, so a mask in any frame is as exact as in the first.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import Phantom
from .scan import beam_space
from .speckle import neighbour_correlation


def origin(config: Phantom, frame: int, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Where the tissue at (x, z) in mm of a frame was in frame 0, in mm.

    A shift to and fro, and a compression in depth with expansion to the side. Both vanish in frame 0.
    """
    motion = config.motion
    phase = 2 * math.pi * frame / motion.period
    squeeze = motion.strain * (1 - math.cos(phase)) / 2
    side, down = motion.shift[0] * math.sin(phase), motion.shift[1] * (1 - math.cos(phase)) / 2
    return (x - side) * (1 - squeeze), (z - down) * (1 + squeeze)


def moved(config: Phantom, frame: int, fields: Tensor, tissue: Tensor) -> tuple[Tensor, Tensor]:
    """Scatterers and echogenicity of frame 0 as they lie in another frame.

    Bilinear interpolation smooths scatterers, most of all halfway between samples. What this takes from the power of
    speckle is given back. The phase of a scatterer's echo turns by 4 pi / wavelength times its way along the beam, so
    speckle decorrelates where tissue is deformed, as it does in a scanner.

    Args:
        config: the phantom.
        frame: its number.
        fields: scatterers (looks, samples, lines) complex64.
        tissue: echogenicity (samples, lines) in dB.
    """
    scan = config.scan
    x, z = beam_space(scan)
    u, v = scan.to_beams(*origin(config, frame, x, z))
    looks = fields.shape[0]
    stack = torch.cat((fields.real, fields.imag, tissue[None]))
    grid = torch.stack((u, v), -1)[None]
    sampled = F.grid_sample(stack[None], grid, padding_mode="reflection", align_corners=True)[0]
    across, along = neighbour_correlation(config)
    power = _kept_power(u, scan.lines, across) * _kept_power(v, scan.samples, along)
    way = torch.linspace(-1, 1, scan.samples)[:, None] - v
    turn = torch.polar(power.rsqrt(), way * (-2 * math.pi * scan.depth / config.wavelength))
    return torch.complex(sampled[:looks], sampled[looks:-1]) * turn, sampled[-1]


def _kept_power(coordinate: Tensor, size: int, correlation: Tensor) -> Tensor:
    """The share of its power that linear interpolation at these coordinates leaves to speckle."""
    fraction = ((coordinate + 1) * ((size - 1) / 2)) % 1
    return 1 - 2 * fraction * (1 - fraction) * (1 - correlation)
