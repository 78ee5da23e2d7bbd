"""The adapter in the two forms that published checkpoints know: batch first and sequence first.

Published code calls the adapter of a block ``mona`` and passes the patch grid as ``hw_shapes``.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from ht_kernels.nn import HTAdapter


def _layout(
    tokens: int, hw_shapes: tuple[int, int] | None, grid: tuple[int, int] | None, prefix_tokens: int
) -> tuple[tuple[int, int], int]:
    """Grid and prefix tokens of one call: the argument, else the default, else a square without prefix tokens."""
    if hw_shapes is not None:
        return hw_shapes, prefix_tokens
    if grid is not None:
        return grid, prefix_tokens
    side = math.isqrt(tokens)
    return (side, side), 0


class BatchFirstMona(nn.Module):
    """An adapter behind a block with tokens (B, N, D), under the name ``clip_mona``.

    ``mona(x, hw_shapes=None)`` returns the shape of ``x``. ``hw_shapes`` is the patch grid (H, W); without it
    ``grid`` is used, and without that the tokens are a square grid with no prefix tokens, as published.

    Args:
        adapter: the adapter, kept as it is.
        grid: default patch grid (H, W).
        prefix_tokens: tokens before the patch grid.
    """

    def __init__(self, adapter: HTAdapter, grid: tuple[int, int] | None = None, prefix_tokens: int = 1) -> None:
        super().__init__()
        self.clip_mona = adapter
        self.grid = grid
        self.prefix_tokens = prefix_tokens

    def forward(self, x: Tensor, hw_shapes: tuple[int, int] | None = None) -> Tensor:
        """Adapt tokens (B, N, D)."""
        adapted: Tensor = self.clip_mona(x, *_layout(x.shape[1], hw_shapes, self.grid, self.prefix_tokens))
        return adapted


class _HwShapesAdapter(HTAdapter):
    """An adapter called as published code calls its own: ``adapter(x, hw_shapes=None)``.

    Called like :class:`BatchFirstMona`.

    Args:
        dim, bottleneck, variant, spectral, dropout: as for :class:`ht_kernels.HTAdapter`.
        grid: default patch grid (H, W), and that of the spectral filter.
        prefix_tokens: tokens before the patch grid.
    """

    def __init__(
        self,
        dim: int,
        bottleneck: int = 64,
        variant: str = "hybrid",
        spectral: str | None = None,
        dropout: float = 0.1,
        grid: tuple[int, int] | None = None,
        prefix_tokens: int = 1,
    ) -> None:
        super().__init__(dim, bottleneck, variant, spectral, dropout, grid)
        self.grid = grid
        self.prefix_tokens = prefix_tokens


class SequenceFirstMona(_HwShapesAdapter):
    """An adapter behind a block of the original OpenAI CLIP package, with tokens (N, B, D).

    The tokens are adapted through a transposed view; nothing is copied.
    """

    def forward(self, x: Tensor, hw_shapes: tuple[int, int] | None = None) -> Tensor:  # type: ignore[override]
        """Adapt tokens (N, B, D)."""
        layout = _layout(x.shape[0], hw_shapes, self.grid, self.prefix_tokens)
        return HTAdapter.forward(self, x.transpose(0, 1), *layout).transpose(0, 1)


class BatchFirstAdapter(_HwShapesAdapter):
    """The same with tokens (B, N, D), without the name ``clip_mona`` between."""

    def forward(self, x: Tensor, hw_shapes: tuple[int, int] | None = None) -> Tensor:  # type: ignore[override]
        """Adapt tokens (B, N, D)."""
        return HTAdapter.forward(self, x, *_layout(x.shape[1], hw_shapes, self.grid, self.prefix_tokens))
