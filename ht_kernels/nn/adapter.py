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
        """The adapter's folded weights; connected to the parameters by autograd when gradients are on.

        Without gradients they are folded again when a parameter was written in place, loaded, moved or replaced. A
        write through ``.data`` leaves no trace; ``eval()`` or ``train()`` after it make the next call fold again.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return fold_adapter(self)
        if self._cache is None or not self._cache.is_current():
            self._cache = _FoldCache(self)
        return self._cache.folded

    def extra_repr(self) -> str:
        return f"variant={self.variant}"

    def train(self, mode: bool = True) -> HTAdapter:
        """Set the mode, and forget folded weights."""
        self._cache = None
        super().train(mode)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self._cache = None
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None}


class _FoldCache:
    """Folded weights, and what tells whether the parameters are still those they were folded from.

    A parameter is known by its identity, its address and its version. Holding it keeps the address from being used
    again; tensors made in inference mode have no version, so nothing that depends on them is kept.
    """

    def __init__(self, adapter: HTAdapter) -> None:
        self.entries = [
            (module._parameters, name, p, p.data_ptr(), -1 if p.is_inference() else p._version)
            for module in adapter.modules()
            for name, p in module._parameters.items()
            if p is not None
        ]
        self.folded = fold_adapter(adapter)

    def is_current(self) -> bool:
        for parameters, name, p, address, version in self.entries:
            if version < 0 or parameters[name] is not p or p._version != version or p.data_ptr() != address:
                return False
        return True
