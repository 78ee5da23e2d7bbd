"""HTAdapter: an adapter with the parameters of the published one that runs on this library's kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ht_kernels.arguments import need_whole
from ht_kernels.backends import torch_private
from ht_kernels.choices import STARTS
from ht_kernels.folding import FoldedAdapter, unfolded, weight_holders
from ht_kernels.functional import ht_adapter, ht_adapter_unfolded
from ht_kernels.ops.fold import fold_adapter
from ht_kernels.ops.prepared import Contents, Stamp, guard, is_captured, wait_for
from ht_kernels.published import VARIANTS, MultiScale, PublishedAdapter

from .inside import Inside, kinds
from .spectral import SpectralFilter


class HTAdapter(PublishedAdapter):
    """A Hybrid-tuning adapter with the parameters, parameter names and results of the published one.

    ``adapter(x, grid=(H, W), prefix_tokens=1)`` maps tokens (B, P + H*W, D) to the same shape and dtype.

    In evaluation mode and without gradients, the adapter caches its folded weights. They are folded again after a
    parameter is written in place, loaded, moved or replaced, after ``train()`` or ``eval()``, and after a forward pass
    with gradients. On the CPU each call compares the parameters with a copy, so writes that autograd does not count are
    noticed too. On a GPU they are not: call ``eval()`` after a write through ``parameter.data``, or after a step of a
    fused optimizer behind a call in evaluation.

    A weight may be computed from other parameters, as pruning, weight normalization and ``parametrize`` of torch do it.
    Then nothing is cached. Where a module inside the adapter has hooks or a replaced forward, or is of another class,
    as PEFT's, the adapter is computed module by module as published, as long as that is so.

    Args:
        dim: token width D.
        bottleneck: bottleneck width C; at least 4 for the variants ``noise_aware`` and ``hybrid``.
        variant: ``baseline``, ``noise_aware``, ``freq_enhanced`` or ``hybrid``.
        spectral: None for the published frequency filter, which is a gain per channel. ``full``, ``shared`` or
            ``radial`` for a :class:`SpectralFilter` instead, under the name ``adapter_conv.spectral``; only for
            ``freq_enhanced`` and ``hybrid``.
        dropout: probability of the dropout before ``project2``, in training only.
        grid: patch grid (H, W) of a spectral filter of the form ``full`` or ``shared``, which fits only this grid.
        start: ``published`` for the published initial values, all random; ``identity`` for ``project2`` at zero, so
            that a new adapter returns its input and training starts with what the tower computes.

    Raises:
        ValueError: the variant, form or start is unknown, a width is too small, the variant has no frequency filter
            that a spectral filter could replace, or the form needs a grid and none is given.
    """

    def __init__(
        self,
        dim: int,
        bottleneck: int = 64,
        variant: str = "hybrid",
        spectral: str | None = None,
        dropout: float = 0.1,
        grid: tuple[int, int] | None = None,
        start: str = "published",
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"unknown variant '{variant}', expected one of {', '.join(VARIANTS)}")
        if start not in STARTS:
            raise ValueError(f"unknown start '{start}', expected one of {', '.join(STARTS)}")
        dim, bottleneck = need_whole("dim", dim), need_whole("bottleneck", bottleneck)
        published = VARIANTS[variant]
        if dim < 1 or bottleneck < (4 if published.noise else 1):
            raise ValueError(f"dim {dim} and bottleneck {bottleneck} are too small for variant '{variant}'")
        # The base class reads these two attributes to decide which parameters to make.
        self.frequency, self.noise = published.frequency, published.noise
        super().__init__(dim, bottleneck, dropout)
        self.variant = variant
        self._cache: _Kept | None = None
        self._inside: Inside | None = None
        if start == "identity":
            nn.init.zeros_(self.project2.weight)
            nn.init.zeros_(self.project2.bias)
        self._kinds = kinds(self)
        if spectral is not None:
            self.to_spectral(spectral, grid)

    @property
    def spectral(self) -> str | None:
        """The form of the spectral filter, or None if the adapter has none."""
        part = self._filter()
        return None if part is None else part.form

    def _filter(self) -> SpectralFilter | None:
        part: SpectralFilter | None = getattr(self.adapter_conv, "spectral", None)
        return part

    @torch.no_grad()
    def to_spectral(self, form: str, grid: tuple[int, int] | None = None) -> HTAdapter:
        """Replace the gain per channel by a spectral filter, in place, without changing what the adapter computes.

        The gain becomes a constant mask. A shared mask cannot hold a gain per channel. So a shared mask is 1, and the
        gain is multiplied into the weights that read the filtered image: the convolutions and the noise estimator.

        Args:
            form, grid: as for :class:`SpectralFilter`.

        Returns:
            The adapter itself.

        Raises:
            ValueError: :class:`SpectralFilter` does not accept the form or grid, or the adapter has no gain.
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
        conv.__class__ = _SpectralMultiScale
        conv.frequency, conv.noise = True, self.noise
        self._kinds = kinds(self)
        self._forget()
        return self

    def forward(self, x: Tensor, grid: tuple[int, int], prefix_tokens: int = 1) -> Tensor:
        """Adapt tokens. The class and :func:`ht_kernels.functional.ht_adapter` describe shapes and errors."""
        inside = self._look_inside()
        if not inside.may_be_left_out():
            return super().forward(x.to(self.gamma.dtype), grid, prefix_tokens).to(x.dtype)
        kept = self._kept(inside)
        part = self._filter() if kept is None else kept.filter
        if part is not None:
            part.check(grid)
        if kept is not None:
            return ht_adapter(x, kept.folded, grid, prefix_tokens, eps=kept.eps, dropout=inside.dropping)
        weights = unfolded(inside.weights(self))
        eps, dropout = self.norm.eps, inside.dropping
        return ht_adapter_unfolded(x, weights, grid, prefix_tokens, eps=eps, dropout=dropout)

    def folded(self) -> FoldedAdapter:
        """The adapter's folded weights. If gradients are enabled, autograd connects them to the parameters.

        Without gradients they share memory with the adapter; do not write into them.
        """
        kept = self._kept(self._look_inside())
        return fold_adapter(self) if kept is None else FoldedAdapter(*kept.folded)

    def _look_inside(self) -> Inside:
        inside = self._inside
        if inside is None or not inside.is_current():
            inside = Inside(self, self._kinds)
            if not torch.compiler.is_compiling():
                self._inside = inside
        return inside

    def _forget(self) -> None:
        """Drop what is cached."""
        self._cache = self._inside = None

    def _kept(self, inside: Inside) -> _Kept | None:
        """The cached folded weights, folded again if a parameter has changed; None if weights are not cached now.

        ``inside`` is what :meth:`_look_inside` gave for this call.
        """
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling() or torch_private.is_traced():
            # Drop the cache, because training can write parameters unnoticed: fused optimizers, and averaging code that
            # writes into ``.data``, do not change a parameter's version.
            if self._cache is not None and not torch.compiler.is_compiling():
                self._cache = None
            return None
        kept = self._cache  # read once: another thread may replace it or set it to None
        if kept is None or kept.inside is not inside or not kept.is_current():
            if is_captured(self.gamma) or torch_private.modes() > 0:  # under a mode, tensors may have no values
                return None
            if _are_computed(self):
                return None
            kept = self._cache = _Kept(self, inside)
        return kept

    def extra_repr(self) -> str:
        return f"variant={self.variant}, spectral={self.spectral}"

    def train(self, mode: bool = True) -> HTAdapter:
        """Set the mode, and drop the cached folded weights."""
        self._cache = None
        super().train(mode)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self._cache = None
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_cache": None, "_inside": None}  # type: ignore[no-untyped-call]

    def _replicate_for_data_parallel(self) -> Any:
        replica: Any = super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        replica._forget()  # what is cached belongs to the original, which may be on another GPU
        return replica


class _SpectralMultiScale(MultiScale):
    """The spatial part with a :class:`SpectralFilter` in the place of the gain per channel."""

    spectral: SpectralFilter

    def filtered(self, s: Tensor) -> Tensor:
        filtered: Tensor = self.spectral(s)
        return filtered


def _are_computed(adapter: nn.Module) -> bool:
    """Whether a weight of an adapter is no parameter, but computed from others or, as in DataParallel, a copy."""
    return any(name.rpartition(".")[2] not in held._parameters for name, held in weight_holders(adapter).items())


class _Kept:
    """Folded weights, and a check whether the parameters that they were folded from have changed.

    The check looks parameters up in the modules that hold them, because one may have been replaced.
    """

    def __init__(self, adapter: HTAdapter, inside: Inside) -> None:
        held: list[tuple[dict[str, Any], str, object]] = []
        parameters: list[Tensor] = []
        for name, holder in weight_holders(adapter).items():
            key = name.rpartition(".")[2]
            parameter: Any = holder._parameters[key]
            held.append((holder._parameters, key, parameter))
            parameters.append(parameter)
        self.filter, self.eps = adapter._filter(), adapter.norm.eps
        held.append((vars(adapter.norm), "eps", self.eps))
        self.held, self.inside = held, inside
        self.stamp = Stamp(parameters)
        self.contents = Contents(self.stamp.tensors)
        with torch.autocast(adapter.gamma.device.type, enabled=False):  # calls without autocast use the weights too
            self.folded = guard(fold_adapter(adapter))
        wait_for(self.folded.up_weight)

    def is_current(self) -> bool:
        for holder, name, found in self.held:
            if holder.get(name) is not found:
                return False
        return self.stamp.holds() and self.contents.hold()
