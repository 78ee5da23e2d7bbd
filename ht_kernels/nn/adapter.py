"""HTAdapter: the published adapter's parameters, computed by the kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ht_kernels.folding import FoldedAdapter, fold_adapter
from ht_kernels.functional import ht_adapter
from ht_kernels.ops.prepared import Stamp, guard, is_captured, wait_for
from ht_kernels.published import VARIANTS, PublishedAdapter

from .spectral import SpectralFilter


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
        spectral: None for the published frequency filter, a gain per channel; ``full``, ``shared`` or ``radial`` for
            a :class:`SpectralFilter`, ``adapter_conv.spectral``, in its place. For ``freq_enhanced`` and ``hybrid``.
        dropout: probability of the dropout before ``project2``, in training only.
        grid: patch grid (H, W) of a spectral filter that is ``full`` or ``shared``; it then takes no other.

    Raises:
        ValueError: an unknown variant or form, a width that does not fit, a spectral filter for a variant without a
            frequency filter, or one without the grid it needs.
    """

    def __init__(
        self,
        dim: int,
        bottleneck: int = 64,
        variant: str = "hybrid",
        spectral: str | None = None,
        dropout: float = 0.1,
        grid: tuple[int, int] | None = None,
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"unknown variant '{variant}', expected one of {', '.join(VARIANTS)}")
        published = VARIANTS[variant]
        if dim < 1 or bottleneck < (4 if published.noise else 1):
            raise ValueError(f"dim {dim} and bottleneck {bottleneck} are too small for variant '{variant}'")
        # The base class builds the parameters that these two ask for.
        self.frequency, self.noise = published.frequency, published.noise
        super().__init__(dim, bottleneck, dropout)
        self.variant = variant
        self._cache: _Kept | None = None
        if spectral is not None:
            self.to_spectral(spectral, grid)

    @property
    def spectral(self) -> str | None:
        """The form of the spectral filter; None with the published gain."""
        part = self._filter()
        return None if part is None else part.form

    def _filter(self) -> SpectralFilter | None:
        part: SpectralFilter | None = getattr(self.adapter_conv, "spectral", None)
        return part

    @torch.no_grad()
    def to_spectral(self, form: str, grid: tuple[int, int] | None = None) -> HTAdapter:
        """Put a spectral filter in place of the gain per channel, in place; the adapter computes the same as before.

        The gain becomes a constant mask. A shared mask has no room for one gain per channel, so there the mask is one
        and the gain goes into what reads the filtered image: the convolutions and the noise estimator.

        Args:
            form, grid: as for :class:`SpectralFilter`.

        Raises:
            ValueError: a form or grid as in :class:`SpectralFilter`, or the adapter has no gain to replace.
        """
        conv: Any = self.adapter_conv
        if not hasattr(conv, "freq_filter"):
            why = f"it has a spectral filter '{self.spectral}'" if self.spectral else f"variant is '{self.variant}'"
            raise ValueError(
                f"spectral '{form}' needs an adapter with a gain per channel, freq_enhanced or hybrid, and {why}"
            )
        gain = conv.freq_filter
        part = SpectralFilter(gain.shape[0], form, grid).to(gain)
        if form == "shared":
            for convolution in (conv.conv1, conv.conv2, conv.conv3):
                convolution.weight.mul_(gain.view(-1, 1, 1, 1))
            if self.noise:
                conv.noise_estimator[1].weight.mul_(gain.view(1, -1, 1, 1))
        else:
            part.mask.mul_(gain.view(-1, *[1] * (part.mask.dim() - 1)))
        part.mask.requires_grad_(gain.requires_grad)
        del conv.freq_filter
        conv.spectral = part
        self._cache = None
        return self

    def forward(self, x: Tensor, grid: tuple[int, int], prefix_tokens: int = 1) -> Tensor:
        """Adapt tokens; see the class and :func:`ht_kernels.functional.ht_adapter` for shapes and errors."""
        kept = self._kept()
        part = self._filter() if kept is None else kept.filter
        if part is not None:
            part.check(grid)
        if kept is not None:
            return ht_adapter(x, kept.folded, grid, prefix_tokens, eps=kept.eps)
        dropout = self.dropout.p if self.training else 0.0
        return ht_adapter(x, fold_adapter(self), grid, prefix_tokens, eps=self.norm.eps, dropout=dropout)

    def folded(self) -> FoldedAdapter:
        """The adapter's folded weights; connected to the parameters by autograd when gradients are on."""
        kept = self._kept()
        return fold_adapter(self) if kept is None else FoldedAdapter(*kept.folded)

    def _kept(self) -> _Kept | None:
        """Folded weights that are those of the parameters now; None where they are not kept."""
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            # Training writes without a trace: fused optimizers and averages over ``.data`` leave no new version.
            if self._cache is not None and not torch.compiler.is_compiling():
                self._cache = None
            return None
        kept = self._cache  # another thread may forget it, or keep another
        if kept is None or not kept.is_current():
            if is_captured(self.gamma):
                return None
            kept = self._cache = _Kept(self)
        return kept

    def extra_repr(self) -> str:
        return f"variant={self.variant}, spectral={self.spectral}"

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


class _Kept:
    """Folded weights, and what tells whether the parameters are still those they were folded from.

    Parameters are looked up where their modules have them, for another may have been put there.
    """

    def __init__(self, adapter: HTAdapter) -> None:
        found = [
            (module._parameters, name, parameter)
            for module in adapter.modules()
            for name, parameter in module._parameters.items()
            if parameter is not None
        ]
        self.found = found
        self.stamp = Stamp(parameter for *_, parameter in found)
        self.filter, self.eps = adapter._filter(), adapter.norm.eps
        self.folded = guard(fold_adapter(adapter))
        wait_for(self.folded.up_weight)

    def is_current(self) -> bool:
        for parameters, name, parameter in self.found:
            if parameters[name] is not parameter:
                return False
        return self.stamp.holds()
