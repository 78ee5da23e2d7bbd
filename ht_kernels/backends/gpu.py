"""What the backends on a GPU do alike: folded weights as their kernels take them."""

from __future__ import annotations

import torch
from torch import Tensor

from ht_kernels.folding import MATRICES, FoldedAdapter

ALIGNMENT = 16
"""Bytes of one load."""


def ready(folded: FoldedAdapter, dtype: torch.dtype) -> FoldedAdapter:
    """Folded weights contiguous and aligned, the three matrices in ``dtype``, the rest in float32."""
    narrow = {name: aligned(getattr(folded, name).to(dtype)) for name in MATRICES}
    return folded.map(lambda t: aligned(t.float()))._replace(**narrow)


def aligned(t: Tensor) -> Tensor:
    """``t`` contiguous, from a multiple of 16 bytes on."""
    t = t.contiguous()
    return t.clone() if t.data_ptr() % ALIGNMENT else t


def may_round() -> bool:
    """Whether tensor cores may round float32 products: ``torch.set_float32_matmul_precision`` says so."""
    return torch.get_float32_matmul_precision() != "highest"
