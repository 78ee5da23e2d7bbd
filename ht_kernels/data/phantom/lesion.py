"""A lesion: an irregular smooth outline, known in closed form, so that masks are exact."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .config import KINDS, LesionKind, Phantom
from .scan import Scan, SectorScan

_HARMONICS = 12


@dataclass(frozen=True)
class Lesion:
    """A star-shaped region around (x, z): an ellipse whose radius varies smoothly with the angle.

    Attributes:
        kind: its acoustic properties.
        center: (x, z) in mm.
        axes: half width and half height in mm, before the rotation.
        rotation: in radians.
        harmonics: complex, element k the (k+1)-th harmonic of the relative radius.
    """

    kind: LesionKind
    center: tuple[float, float]
    axes: tuple[float, float]
    rotation: float
    harmonics: tuple[complex, ...]

    def distance(self, x: Tensor, z: Tensor) -> Tensor:
        """How far points (x, z) in mm lie inside the outline, in mm along the radius; negative outside."""
        dx, dz = x - self.center[0], z - self.center[1]
        cos, sin = math.cos(self.rotation), math.sin(self.rotation)
        a, b = (cos * dx + sin * dz) / self.axes[0], (cos * dz - sin * dx) / self.axes[1]
        radius = torch.hypot(a, b)
        outline = torch.ones_like(radius)
        near = radius < 2  # most points lie further out, outside of any outline
        outline[near] = self._relative_radius(a[near], b[near], radius[near])
        return (outline - radius) * math.sqrt(self.axes[0] * self.axes[1])

    def contains(self, x: Tensor, z: Tensor) -> Tensor:
        """Whether points (x, z) in mm lie inside the outline, bool."""
        return self.distance(x, z) > 0

    def share(self, x: Tensor, z: Tensor) -> Tensor:
        """The lesion's share in the tissue at (x, z): 1 inside, 0 outside, a smooth step across the margin."""
        return torch.sigmoid(self.distance(x, z) * (4 / self.kind.edge))

    def _relative_radius(self, a: Tensor, b: Tensor, radius: Tensor) -> Tensor:
        """1 + Re(sum of c_k e^(ik phi)), by Horner's rule in e^(i phi) = (a + ib) / |a + ib|."""
        scale = 1 / radius.clamp_min(1e-6)
        cos, sin = a * scale, b * scale
        real, imaginary = torch.zeros_like(a), torch.zeros_like(a)
        for c in reversed(self.harmonics):
            real, imaginary = real + c.real, imaginary + c.imag
            real, imaginary = real * cos - imaginary * sin, real * sin + imaginary * cos
        return 1 + real


def draw_lesion(config: Phantom, generator: np.random.Generator) -> Lesion:
    """A lesion of the phantom's kind, of a random outline, that lies within the scan."""
    kind, scan = KINDS[config.kind], config.scan
    elongation = math.sqrt(generator.uniform(*kind.elongation))
    size = generator.uniform(0.08, 0.26) * min(scan.depth, 2 * _half_width(scan, scan.depth / 3))
    margin = 1.4 * size / elongation + 0.05 * scan.depth
    depth = generator.uniform(margin, max(margin, min(0.65 * scan.depth, scan.depth - margin)))
    half_width = _half_width(scan, depth)
    side = generator.uniform(-1, 1) * max(half_width - 1.4 * size * elongation, 0)
    if isinstance(scan, SectorScan):
        angle = side / (scan.radius + depth)
        center = (scan.radius + depth) * math.sin(angle), (scan.radius + depth) * math.cos(angle) - scan.radius
    else:
        center = side, depth
    order = np.arange(2, _HARMONICS + 1)
    # Rough outlines have high harmonics too, smooth ones have not.
    falloff = order ** -(0.9 + 0.06 / kind.irregularity)
    amplitudes = kind.irregularity * math.sqrt(2) * falloff / np.sqrt(np.sum(falloff**2))
    phases = generator.uniform(0, 2 * math.pi, len(order))
    harmonics = (0j, *(complex(c) for c in amplitudes * np.exp(1j * phases)))
    rotation = float(generator.normal(0, 0.25))
    return Lesion(kind, center, (size * elongation, size / elongation), rotation, harmonics)


def _half_width(scan: Scan, depth: float) -> float:
    """Of the scan at a depth, along the arc of a sector; both in mm."""
    return float(scan.line_spacing(torch.tensor(depth))) * (scan.lines - 1) / 2
