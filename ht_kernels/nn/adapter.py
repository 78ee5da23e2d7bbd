"""HTAdapter: the published adapter's parameters, computed by the kernels."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn

from ht_kernels.fold import FoldedAdapter, cast_matrices, fold_adapter, on_grid
from ht_kernels.functional import circumstances, plan_adapter, run_adapter
from ht_kernels.published import VARIANTS, PublishedAdapter

from .spectral import SpectralFilter

_MOST_PLANS = 64
"""Shapes and circumstances of calls that an adapter remembers."""


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
        self._cache: _FoldCache | None = None
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
        cache = self._kept()
        plan = None if cache is None else cache.plan(x, grid, prefix_tokens)
        if plan is not None:
            return plan(x)
        part = self._filter()
        if part is not None:
            part.check(grid)
        dropout = self.dropout.p if self.training else 0.0
        return run_adapter(x, fold_adapter(self), grid, prefix_tokens, self.norm.eps, dropout=dropout)

    def folded(self) -> FoldedAdapter:
        """The adapter's folded weights; connected to the parameters by autograd when gradients are on."""
        cache = self._kept()
        return fold_adapter(self) if cache is None else cache.folded

    def _kept(self) -> _FoldCache | None:
        """Folded weights that are those of the parameters now; None where they are not kept."""
        if torch.compiler.is_compiling():
            return None
        if self.training or torch.is_grad_enabled():
            # Training writes without a trace: fused optimizers and averages over ``.data`` leave no new version.
            self._cache = None
            return None
        cache = self._cache  # another thread may forget it, or keep another
        if cache is None or not cache.is_current():
            if _is_captured(self.gamma):
                return None
            cache = self._cache = _FoldCache(self)
        return cache

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


class _FoldCache:
    """Folded weights, and what tells whether the parameters are still those they were folded from.

    A parameter is known by its identity, version, address and, where a transpose has its shape, strides. Holding its
    storage keeps the address from being used again. Tensors made in inference mode have no version, and those that a
    transform such as ``vmap`` puts in place of parameters need not have an address, so nothing that depends on them is
    kept.
    """

    def __init__(self, adapter: HTAdapter) -> None:
        held = [
            (module._parameters, name, p)
            for module in adapter.modules()
            for name, p in module._parameters.items()
            if p is not None
        ]
        self.known = all(type(p) is nn.Parameter and not p.is_inference() for _, _, p in held)
        if not self.known:
            held = []
        self.entries = [(parameters, name, p, p._version, p.data_ptr()) for parameters, name, p in held]
        self.strides = [(p, p.stride()) for _, _, p in held if _has_equal_sides(p)]
        self.storages = [p.untyped_storage() for _, _, p in held]
        self.filter, self.eps = adapter._filter(), adapter.norm.eps
        self.folded = fold_adapter(adapter)
        self._in_16_bits: dict[torch.dtype, FoldedAdapter] = {}
        self._on_grid: tuple[tuple[int, int], Tensor | None] | None = None
        self._plans: dict[Hashable, Callable[[Tensor], Tensor]] = {}
        self._lock = threading.Lock()  # one thread at a time makes what calls need
        self._finish()

    def plan(self, x: Tensor, grid: tuple[int, int], prefix_tokens: int) -> Callable[[Tensor], Tensor] | None:
        """The adapter of tensors like ``x``; None where a capture would have to make it."""
        key = (x.shape, x.dtype, x.device, grid, prefix_tokens, circumstances(x))
        plan = self._plans.get(key)
        if plan is None:
            if _is_captured(x):
                return None
            if self.filter is not None:
                self.filter.check(grid)
            with self._lock:
                if len(self._plans) >= _MOST_PLANS:
                    self._plans.clear()
                plan = plan_adapter(x, self._for_call(x, grid), grid, prefix_tokens, self.eps)
                self._finish()
                self._plans[key] = plan
        return plan

    def _for_call(self, x: Tensor, grid: tuple[int, int]) -> FoldedAdapter:
        """The folded weights as the kernels want them: a radial mask on the grid; on a GPU, the matrices in the dtype
        of 16-bit tokens."""
        folded = self.folded
        if x.is_cuda and x.dtype in (torch.float16, torch.bfloat16):
            if x.dtype not in self._in_16_bits:
                self._in_16_bits[x.dtype] = cast_matrices(folded, x.dtype)
            folded = self._in_16_bits[x.dtype]
        if folded.mask is None:
            return folded
        if self._on_grid is None or self._on_grid[0] != grid:
            self._on_grid = grid, on_grid(folded, grid).mask
        return folded._replace(mask=self._on_grid[1])

    def _finish(self) -> None:
        """Wait until a GPU has made what is kept: calls on other streams read it."""
        weight = self.folded.up_weight
        if self.known and weight.is_cuda:
            torch.cuda.current_stream(weight.device).synchronize()

    def is_current(self) -> bool:
        for parameters, name, p, version, address in self.entries:
            if parameters[name] is not p or p._version != version or p.data_ptr() != address:
                return False
        return self.known and all(p.stride() == strides for p, strides in self.strides)


def _is_captured(t: Tensor) -> bool:
    """Whether a CUDA graph is being captured on the GPU of ``t``: what a capture makes has no values before a replay,
    so it is not kept."""
    return t.is_cuda and torch.cuda.is_current_stream_capturing()


def _has_equal_sides(t: Tensor) -> bool:
    """Whether a transpose of ``t`` has the shape of ``t`` and is something else."""
    sides = [side for side in t.shape if side > 1]
    return len(set(sides)) < len(sides)
