"""What a training forward keeps for the backward."""

from __future__ import annotations

import torch
from torch import Tensor

from ht_kernels.folding import FoldedAdapter

SUM_ROWS = 16
"""Tokens per partial sum of the bottleneck."""


def empty_state(x: Tensor, folded: FoldedAdapter, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Memory for what a training forward keeps: the bottleneck (B, N, C) in ``dtype``; mean and 1/std (B, N, 2) of the
    tokens; and for the noise estimator sums of the bottleneck over 16 tokens each (B, N / 16, C), in float32."""
    batch, tokens, _ = x.shape
    channels, parts = folded.up_weight.shape[1], -(-tokens // SUM_ROWS)
    return (
        x.new_empty((batch, tokens, channels), dtype=dtype),
        x.new_empty((batch, tokens, 2), dtype=torch.float32),
        x.new_empty((0,) if folded.hidden_weight is None else (batch, parts, channels), dtype=torch.float32),
    )
