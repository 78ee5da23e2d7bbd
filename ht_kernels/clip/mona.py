"""The adapter in the two forms that published checkpoints have: batch first and sequence first.

The published code calls the adapter of a block ``mona`` and passes the patch grid as ``hw_shapes``. So does the code of
Mona (Yin et al., "5%>100%: Breaking Performance Shackles of Full Fine-Tuning on Visual Recognition Tasks", CVPR 2025),
whose adapter has the parameters of the variant ``baseline`` and stands in Swin blocks, without prefix tokens.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from ht_kernels.nn import HTAdapter


def _layout(
    tokens: int, hw_shapes: tuple[int, int] | None, grid: tuple[int, int] | None, prefix_tokens: int
) -> tuple[tuple[int, int], int]:
    """Grid and prefix tokens of a call: ``hw_shapes`` if given, else ``grid``, else a square.

    Of a square the tokens are all, or all behind the prefix tokens, whichever fits.
    """
    if hw_shapes is not None:
        return hw_shapes, prefix_tokens
    if grid is not None:
        return grid, prefix_tokens
    side = math.isqrt(tokens)
    return (side, side), prefix_tokens if tokens == side * side + prefix_tokens else 0


class BatchFirstMona(nn.Module):
    """A module that holds the adapter of a block under the name ``clip_mona``, for tokens (B, N, D).

    ``mona(x, hw_shapes=None)`` maps ``x`` to the same shape. ``hw_shapes`` is the patch grid (H, W), by default
    ``grid``. If both are None, the tokens are a square grid: without prefix tokens, as in the published code, or with
    them if only that makes a square.

    Args:
        adapter: the adapter to hold.
        grid: default patch grid (H, W).
        prefix_tokens: the number of tokens before the patch grid.
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
    """An adapter that is called as in the published code: ``adapter(x, hw_shapes=None)``.

    ``hw_shapes`` means the same as for :class:`BatchFirstMona`.

    Args:
        dim, bottleneck, variant, spectral, dropout, start: as for :class:`ht_kernels.HTAdapter`.
        grid: default patch grid (H, W); also the grid of the spectral filter.
        prefix_tokens: the number of tokens before the patch grid.
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
        start: str = "published",
    ) -> None:
        super().__init__(dim, bottleneck, variant, spectral, dropout, grid, start)
        self.grid = grid
        self.prefix_tokens = prefix_tokens


class SequenceFirstMona(_HwShapesAdapter):
    """The adapter of a block in the original OpenAI CLIP package, for tokens (N, B, D).

    The adapter works on a transposed view of the tokens, so nothing is copied.
    """

    def forward(self, x: Tensor, hw_shapes: tuple[int, int] | None = None) -> Tensor:  # type: ignore[override]
        """Adapt tokens (N, B, D)."""
        layout = _layout(x.shape[0], hw_shapes, self.grid, self.prefix_tokens)
        return HTAdapter.forward(self, x.transpose(0, 1), *layout).transpose(0, 1)


class BatchFirstAdapter(_HwShapesAdapter):
    """An adapter for tokens (B, N, D) that is itself the ``mona`` of a block, without a ``clip_mona`` inside."""

    def forward(self, x: Tensor, hw_shapes: tuple[int, int] | None = None) -> Tensor:  # type: ignore[override]
        """Adapt tokens (B, N, D)."""
        return HTAdapter.forward(self, x, *_layout(x.shape[1], hw_shapes, self.grid, self.prefix_tokens))
