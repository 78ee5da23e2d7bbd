"""HTAdapter: the published adapter's parameters, computed by the kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ht_kernels.fold import FoldedAdapter, fold_adapter
from ht_kernels.functional import ht_adapter
from ht_kernels.published import VARIANTS, PublishedAdapter


class HTAdapter(PublishedAdapter):
    """A Hybrid-tuning adapter with the parameters, names and result of the published one.

    ``adapter(x, grid=(H, W), prefix_tokens=1)`` maps tokens (B, P + H*W, D) to the same shape and dtype.

    In evaluation mode and without gradients the folded weights are kept until a parameter is written in place,
    loaded, moved or replaced, the mode is set, or a forward pass with gradients is made. Only one change goes
    unseen: a write into ``parameter.data`` between two such calls. Call ``eval()`` after it.

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
        if torch.compiler.is_compiling():
            return fold_adapter(self)
        if self.training or torch.is_grad_enabled():
            # Training writes without a trace: fused optimizers and averages over ``.data`` leave no new version.
            self._cache = None
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
        return {**super().__getstate__(), "_cache": None}  # type: ignore[no-untyped-call]


class _FoldCache:
    """Folded weights, and what tells whether the parameters are still those they were folded from.

    A parameter is known by its identity, version, address and strides. Holding its storage keeps the address from
    being used again. Tensors made in inference mode have no version, and those that a transform such as ``vmap`` puts
    in place of parameters need not have an address, so nothing that depends on them is kept.
    """

    def __init__(self, adapter: HTAdapter) -> None:
        held = [
            (module._parameters, name, p)
            for module in adapter.modules()
            for name, p in module._parameters.items()
            if p is not None
        ]
        self.known = all(type(p) is nn.Parameter and not p.is_inference() for _, _, p in held)
        self.entries = [
            (parameters, name, p, p._version, p.data_ptr(), p.stride()) for parameters, name, p in held if self.known
        ]
        self.storages = [p.untyped_storage() for _, _, p in held if self.known]
        self.folded = fold_adapter(adapter)

    def is_current(self) -> bool:
        return self.known and all(
            parameters[name] is p and p._version == version and p.data_ptr() == address and p.stride() == strides
            for parameters, name, p, version, address, strides in self.entries
        )
