"""Descriptions of a call: the case by which a backend is chosen, and the arguments other than tokens and weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Case(NamedTuple):
    """The properties of an adapter call by which a backend decides whether it can run the call."""

    device: torch.device
    dtype: torch.dtype
    dim: int
    bottleneck: int
    grid: tuple[int, int]
    prefix_tokens: int
    needs_grad: bool  # whether the call needs gradients or dropout
    spectral: bool = False  # whether the adapter has a spectral filter
    keeps: bool = False  # whether the caller passes dropout factors
    named: bool = False  # whether the caller or the process asked for this backend by name

    @classmethod
    def of(
        cls, x: Tensor, up_weight: Tensor, mask: Tensor | None, layout: Layout, needs_grad: bool, keeps: bool = False
    ) -> Case:
        """The case of a call with tokens ``x`` (B, N, D), by the weights ``up_weight`` (D, C) and ``mask``."""
        sizes = x.shape[2], up_weight.shape[1], layout.grid, layout.prefix_tokens
        return cls(x.device, x.dtype, *sizes, needs_grad, mask is not None, keeps)


class FilterCase(NamedTuple):
    """The properties of a call of the spectral filter, with the same meanings as in :class:`Case`."""

    device: torch.device
    dtype: torch.dtype
    grid: tuple[int, int]
    needs_grad: bool
    named: bool = False


class MaskCase(NamedTuple):
    """The properties of a call that makes masks of logits on a grid, with the same meanings as in :class:`Case`."""

    device: torch.device
    dtype: torch.dtype
    named: bool = False


class Layout(NamedTuple):
    """The layout of the tokens in x (B, P + H*W, D), and the epsilon of the LayerNorm."""

    height: int
    width: int
    prefix_tokens: int
    eps: float

    @property
    def grid(self) -> tuple[int, int]:
        """The patch grid (H, W)."""
        return self.height, self.width


class Training(NamedTuple):
    """The additional arguments of a call with gradients or dropout.

    Dropout is given either as ``keep``, factors (B, N, C), or as ``seed``, one int64 on the device of x, from which the
    kernel draws zeros with probability ``dropout``. Without dropout, both are None. ``dtype`` is the dtype of matrix
    products and, on a GPU, of the bottleneck that is kept for the backward pass.
    """

    keep: Tensor | None
    seed: Tensor | None
    dropout: float
    dtype: torch.dtype


def unit_stride(t: Tensor) -> Tensor:
    """Return ``t`` (B, N, D) with a contiguous last dimension, as all kernels need it for tokens."""
    return t if t.stride(2) == 1 else t.contiguous()
