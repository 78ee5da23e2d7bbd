"""SpectralFilter: a learned mask over frequencies, ``F = irfft2(mask * rfft2(S))``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ht_kernels.folding import mask_pairs
from ht_kernels.functional import FORMS, spectral_filter

RADIAL_BINS = 16
"""Values of a radial curve: about twice the 8 frequencies per side of a 14x14 grid."""


class SpectralFilter(nn.Module):
    """The parameters of a spectral filter; a new one changes nothing.

    ``filter(x)`` maps (B, C, H, W) to the same shape. ``mask`` is the parameter: (C, H, W // 2 + 1, 2) for ``full`` and
    (1, H, W // 2 + 1, 2) for ``shared``, the real and imaginary parts of a complex mask; (C, 16) for ``radial``, real,
    from radius 0 to that of the highest frequency.

    Args:
        channels: C.
        form: ``full``, one mask per channel; ``shared``, one for all; ``radial``, a curve over the radius per channel.
        grid: (H, W), which ``full`` and ``shared`` need; ``radial`` fits any.

    Raises:
        ValueError: an unknown form, or a grid that is missing or not positive.
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

    def check(self, grid: tuple[int, ...]) -> None:
        """Raise ValueError for a grid that is not the mask's."""
        if self.grid is not None and self.grid != tuple(grid):
            raise ValueError(
                f"the spectral filter was made for a grid of {self.grid[0]}x{self.grid[1]}, got {grid[0]}x{grid[1]}; "
                "form 'radial' fits any grid"
            )

    def extra_repr(self) -> str:
        return f"form={self.form}, grid={self.grid}"
