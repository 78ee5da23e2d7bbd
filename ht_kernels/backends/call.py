"""What a call is: the case that a backend says yes or no to, and what it gets beside tensors and weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Case(NamedTuple):
    """What a backend needs to know to say whether it can run one adapter call."""

    device: torch.device
    dtype: torch.dtype
    dim: int
    bottleneck: int
    grid: tuple[int, int]
    prefix_tokens: int
    needs_grad: bool  # or dropout, which only training has
    spectral: bool = False
    keeps: bool = False  # the caller brings dropout factors
    named: bool = False  # the caller, or the process, asked for this backend by name


class FilterCase(NamedTuple):
    """The same for one call of the spectral filter."""

    device: torch.device
    dtype: torch.dtype
    grid: tuple[int, int]
    needs_grad: bool
    named: bool = False


class Layout(NamedTuple):
    """How tokens lie in x (B, P + H*W, D), and the LayerNorm's epsilon."""

    height: int
    width: int
    prefix_tokens: int
    eps: float

    @property
    def grid(self) -> tuple[int, int]:
        """(H, W)"""
        return self.height, self.width


class Training(NamedTuple):
    """What a call with gradients or dropout has besides.

    Dropout comes as ``keep``, factors (B, N, C), or is drawn by the kernel from ``seed``, one int64 on the device of x,
    with ``dropout`` as the probability of a zero. Both are None without dropout.
    """

    keep: Tensor | None
    seed: Tensor | None
    dropout: float
    dtype: torch.dtype  # of matrix products and of the bottleneck that is kept, on a GPU


def unit_stride(t: Tensor) -> Tensor:
    """``t`` (B, N, D) with its last dimension contiguous, as every kernel reads and writes tokens."""
    return t if t.stride(2) == 1 else t.contiguous()
