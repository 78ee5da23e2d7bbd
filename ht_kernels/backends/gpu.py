"""Functions that both GPU backends share."""

from __future__ import annotations

import torch
from torch import Tensor

from ht_kernels.folding import MATRICES, FoldedAdapter

ALIGNMENT = 16
"""The size of one load in bytes. Kernels need weights to start at multiples of it."""


def ready(folded: FoldedAdapter, dtype: torch.dtype) -> FoldedAdapter:
    """Make folded weights contiguous and aligned, with the three matrices in ``dtype`` and the others in float32."""
    weights = {name: t for name, t in folded._asdict().items() if t is not None}
    return folded._replace(
        **{name: aligned(t.to(dtype if name in MATRICES else torch.float32)) for name, t in weights.items()}
    )


def aligned(t: Tensor) -> Tensor:
    """Return ``t``, or a copy of it, contiguous and starting at a multiple of 16 bytes."""
    t = t.contiguous()
    return t.clone() if t.data_ptr() % ALIGNMENT else t


def may_round() -> bool:
    """Whether ``torch.set_float32_matmul_precision`` allows tensor cores to round the factors of float32 products."""
    return torch.get_float32_matmul_precision() != "highest"
