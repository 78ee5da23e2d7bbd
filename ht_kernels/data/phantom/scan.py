"""Where beams and pixels lie in linear and sector scans, and the maps between them.

Beam coordinates (u, v) run from -1 to 1, u across the lines and v along them, as ``grid_sample`` has them. Space is
(x, z) in mm: x to the right, z down, the origin in the middle of the probe's face.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ht_kernels.errors import InputError


@dataclass(frozen=True)
class LinearScan:
    """Parallel lines, as of a linear array.

    Attributes:
        depth: of the image, in mm.
        width: of the image, in mm.
        samples: along a line.
        lines: across the image.
    """

    depth: float = 40.0
    width: float = 40.0
    samples: int = 256
    lines: int = 192

    def __post_init__(self) -> None:
        _check(self.depth, self.width, self.samples, self.lines)

    def to_space(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """(x, z) in mm of beam coordinates."""
        return u * (self.width / 2), (v + 1) * (self.depth / 2)

    def to_beams(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Beam coordinates of (x, z) in mm."""
        return x * (2 / self.width), z * (2 / self.depth) - 1

    def line_spacing(self, depth: Tensor) -> Tensor:
        """Distance between lines in mm, at depths in mm."""
        return torch.full_like(depth, self.width / (self.lines - 1))

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, right, top, bottom of the image in mm."""
        return -self.width / 2, self.width / 2, 0.0, self.depth


@dataclass(frozen=True)
class SectorScan:
    """Lines that fan out from a curved (convex) array.

    Attributes:
        depth: of the image, in mm from the probe's face.
        radius: of the probe's face, in mm.
        angle: between the outermost lines, in degrees.
        samples: along a line.
        lines: across the image.
    """

    depth: float = 80.0
    radius: float = 40.0
    angle: float = 65.0
    samples: int = 320
    lines: int = 192

    def __post_init__(self) -> None:
        _check(self.depth, self.radius, self.samples, self.lines)
        if not 0 < self.angle < 180:
            raise InputError(f"the angle of a sector is {self.angle} degrees, expected between 0 and 180")

    def to_space(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """(x, z) in mm of beam coordinates."""
        range_, theta = self.radius + (v + 1) * (self.depth / 2), u * self._half
        return range_ * torch.sin(theta), range_ * torch.cos(theta) - self.radius

    def to_beams(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Beam coordinates of (x, z) in mm."""
        below = z + self.radius
        return torch.atan2(x, below) / self._half, (torch.hypot(x, below) - self.radius) * (2 / self.depth) - 1

    def line_spacing(self, depth: Tensor) -> Tensor:
        """Distance between lines in mm, at depths in mm."""
        return (self.radius + depth) * (2 * self._half / (self.lines - 1))

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, right, top, bottom of the image in mm."""
        half = (self.radius + self.depth) * math.sin(min(self._half, math.pi / 2))
        return -half, half, self.radius * (math.cos(self._half) - 1), self.depth

    @property
    def _half(self) -> float:
        return math.radians(self.angle) / 2


Scan = LinearScan | SectorScan


@lru_cache(maxsize=4)
def beam_grid(scan: Scan) -> tuple[Tensor, Tensor]:
    """Beam coordinates (u, v) of the samples, each (samples, lines) float32."""
    v, u = torch.meshgrid(torch.linspace(-1, 1, scan.samples), torch.linspace(-1, 1, scan.lines), indexing="ij")
    return u.contiguous(), v.contiguous()


@lru_cache(maxsize=4)
def beam_space(scan: Scan) -> tuple[Tensor, Tensor]:
    """(x, z) in mm of the samples, each (samples, lines) float32."""
    return scan.to_space(*beam_grid(scan))


def depths(scan: Scan) -> Tensor:
    """Depths of the samples of a line in mm, (samples,) float32."""
    return torch.linspace(0, scan.depth, scan.samples)


@lru_cache(maxsize=4)
def pixel_space(scan: Scan, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(x, z) in mm of the pixels' centres, each (H, W) float32; the image is the scan's bounding box."""
    left, right, top, bottom = scan.box
    rows = top + (torch.arange(size[0]) + 0.5) * ((bottom - top) / size[0])
    columns = left + (torch.arange(size[1]) + 0.5) * ((right - left) / size[1])
    z, x = torch.meshgrid(rows, columns, indexing="ij")
    return x.contiguous(), z.contiguous()


@lru_cache(maxsize=4)
def pixel_grid(scan: Scan, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Beam coordinates of the pixels (1, H, W, 2) float32, and which of them a beam reaches, (H, W) bool."""
    u, v = scan.to_beams(*pixel_space(scan, size))
    return torch.stack((u, v), -1)[None], (u.abs() <= 1) & (v.abs() <= 1)


def convert(beams: Tensor, scan: Scan, size: tuple[int, int]) -> Tensor:
    """Scan conversion: (samples, lines) float32 to an image (H, W), bilinear; 0 where no beam reaches."""
    grid, reached = pixel_grid(scan, size)
    image = F.grid_sample(beams[None, None], grid, padding_mode="border", align_corners=True)[0, 0]
    return image * reached


def _check(first: float, second: float, samples: int, lines: int) -> None:
    if not (0 < first < math.inf and 0 < second < math.inf):
        raise InputError(f"a scan of {first} x {second} mm was asked for, expected positive numbers")
    if samples < 16 or lines < 16:
        raise InputError(f"a scan of {samples} samples and {lines} lines was asked for, expected 16 or more of each")
