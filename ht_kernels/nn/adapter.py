"""HTAdapter: the published adapter's parameters, computed by the kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ht_kernels.fold import FoldedAdapter, fold_adapter
from ht_kernels.functional import ht_adapter
from ht_kernels.published import VARIANTS, PublishedAdapter


class HTAdapter(PublishedAdapter):
    """A Hybrid-tuning adapter with the parameters, names and result of the published one.

    ``adapter(x, grid=(H, W), prefix_tokens=1)`` maps tokens (B, P + H*W, D) to the same shape and dtype. Without
    gradients the folded weights are kept until a parameter changes.

    Args:
        dim: token width D.
        bottleneck: bottleneck width C; at least 4 for the noise-aware variants.
        variant: ``baseline``, ``noise_aware``, ``freq_enhanced`` or ``hybrid``.
        dropout: probability of the dropout before ``project2``, in training only.

    Raises:
        ValueError: an unknown variant or a width that does not fit.
    """

    def __init__(self, dim: int, bottleneck: int = 64, variant: str = "hybrid", dropout: float = 0.1) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"unknown variant '{variant}', expected one of {', '.join(VARIANTS)}")
        published = VARIANTS[variant]
        if dim < 1 or bottleneck < (4 if published.noise else 1):
            raise ValueError(f"dim {dim} and bottleneck {bottleneck} are too small for variant '{variant}'")
        # The base class builds the parameters that these two ask for.
        self.frequency, self.noise = published.frequency, published.noise
        super().__init__(dim, bottleneck, dropout)
        self.variant = variant
        self._cache: _FoldCache | None = None

    def forward(self, x: Tensor, grid: tuple[int, int], prefix_tokens: int = 1) -> Tensor:
        """Adapt tokens; see the class and :func:`ht_kernels.functional.ht_adapter` for shapes and errors."""
        keep = None
        if self.training and self.dropout.p > 0:
            dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
            keep = F.dropout(x.new_ones(*x.shape[:2], self.project1.out_features, dtype=dtype), self.dropout.p)
        return ht_adapter(x, self.folded(), grid, prefix_tokens, eps=self.norm.eps, keep=keep)

    def folded(self) -> FoldedAdapter:
        """The adapter's folded weights; connected to the parameters by autograd when gradients are on."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return fold_adapter(self)
        if self._cache is None or not self._cache.is_current(self):
            self._cache = _FoldCache(self)
        return self._cache.folded

    def extra_repr(self) -> str:
        return f"variant={self.variant}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self._cache = None
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None}


class _FoldCache:
    """Folded weights, and what tells whether the parameters are still those they were folded from.

    Holding the storages keeps an address from being used again, so address and version identify the values.
    """

    def __init__(self, adapter: HTAdapter) -> None:
        self.storages = [p.detach() for p in adapter.parameters()]
        self.keys = [] if any(p.is_inference() for p in adapter.parameters()) else _keys(adapter)
        self.folded = fold_adapter(adapter)

    def is_current(self, adapter: HTAdapter) -> bool:
        # Inference tensors keep no version, so nothing tells whether they changed.
        return not any(p.is_inference() for p in adapter.parameters()) and self.keys == _keys(adapter)


def _keys(adapter: HTAdapter) -> list[tuple[int, int]]:
    return [(p.data_ptr(), p._version) for p in adapter.parameters()]
