"""SpectralFilter: a learned mask over frequencies, ``F = irfft2(mask * rfft2(S))``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ht_kernels.choices import FORMS
from ht_kernels.folding import mask_pairs
from ht_kernels.functional import spectral_filter

RADIAL_BINS = 16
"""The number of values of a radial curve: about twice the 8 frequencies per side of a 14x14 grid."""


class SpectralFilter(nn.Module):
    """A spectral filter with a learned mask. The mask of a new filter is 1, so the filter changes nothing.

    ``filter(x)`` maps (B, C, H, W) to the same shape. The parameter ``mask`` is (C, H, W // 2 + 1, 2) for ``full`` and
    (1, H, W // 2 + 1, 2) for ``shared``, where the last dimension holds the real and imaginary parts. For ``radial`` it
    is (C, 16), real, with values at equal steps from radius 0 to the radius of the highest frequency.

    Args:
        channels: the number of channels C.
        form: ``full`` for one mask per channel, ``shared`` for one mask for all channels, or ``radial`` for one curve
            over the radius per channel.
        grid: (H, W). ``full`` and ``shared`` need it; ``radial`` fits any grid.

    Raises:
        ValueError: the form is unknown, or the grid is missing or not positive.
    """

    def __init__(self, channels: int, form: str, grid: tuple[int, int] | None = None) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"unknown spectral form '{form}', expected one of {', '.join(FORMS)}")
        if form != "radial" and (grid is None or min(grid) < 1):
            raise ValueError(f"spectral form '{form}' needs grid, the patch grid (H, W) of its mask, got {grid}")
        self.form = form
        self.grid = None if form == "radial" else grid
        if self.grid is None:
            mask = torch.ones(channels, RADIAL_BINS)
        else:
            height, width = self.grid
            mask = mask_pairs(torch.ones(channels if form == "full" else 1, height, width // 2 + 1))
        self.mask = nn.Parameter(mask)

    def forward(self, x: Tensor) -> Tensor:
        """Filter (B, C, H, W); see :func:`ht_kernels.functional.spectral_filter` for errors."""
        self.check(x.shape[-2:])
        mask = self.mask if self.grid is None else torch.view_as_complex(self.mask)
        return spectral_filter(x, mask, self.form)

    def gain(self) -> Tensor | None:
        """The gain per channel that the filter is, (C,) or for ``shared`` (1,); None if it depends on frequency."""
        mask = self.mask.detach()
        values = (mask if self.grid is None else mask[..., 0]).flatten(1)
        constant = bool((values == values[:, :1]).all()) and (self.grid is None or not mask[..., 1].any())
        return values[:, 0] if constant else None

    def check(self, grid: tuple[int, ...]) -> None:
        """Raise ValueError if ``grid`` is not the grid of the mask."""
        if self.grid is not None and self.grid != tuple(grid):
            raise ValueError(
                f"the spectral filter was made for a grid of {self.grid[0]}x{self.grid[1]}, got {grid[0]}x{grid[1]}; "
                "form 'radial' fits any grid"
            )

    def extra_repr(self) -> str:
        return f"form={self.form}, grid={self.grid}"
