"""The state that a training forward keeps for the backward."""

from __future__ import annotations

import torch
from torch import Tensor

from ht_kernels.folding import FoldedAdapter

SUM_ROWS = 16
"""The number of tokens in each partial sum of the bottleneck."""


def empty_state(x: Tensor, folded: FoldedAdapter, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Allocate the state that a training forward keeps.

    The state consists of the bottleneck (B, N, C) in ``dtype``; mean and 1/std (B, N, 2) of the tokens in float32; and,
    for the noise estimator, the sums (B, ceil(N / 16), C) of the bottleneck over 16 tokens each, in float32.
    """
    batch, tokens, _ = x.shape
    channels, parts = folded.up_weight.shape[1], -(-tokens // SUM_ROWS)
    return (
        x.new_empty((batch, tokens, channels), dtype=dtype),
        x.new_empty((batch, tokens, 2), dtype=torch.float32),
        x.new_empty((0,) if folded.hidden_weight is None else (batch, parts, channels), dtype=torch.float32),
    )
