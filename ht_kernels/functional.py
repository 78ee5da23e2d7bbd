"""The one door to the kernels: checks arguments, chooses a backend, calls it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import operators
from .backends import Case, choose, reference
from .fold import KERNEL_SIZE, FoldedAdapter, FoldedLevel, cast_matrices

_FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_MATRICES = ("down_weight", "mix_weight", "up_weight")


def ht_adapter(
    x: Tensor,
    folded: FoldedAdapter,
    grid: tuple[int, int],
    prefix_tokens: int = 1,
    *,
    eps: float = 1e-5,
    keep: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """The Hybrid-tuning adapter on folded weights, differentiable in ``x`` and in every folded weight.

    Args:
        x: tokens (B, P + H*W, D): P prefix tokens, then the patch grid row by row. Any strides, so a transposed
            sequence-first tensor may be passed as it is. float32, bfloat16, float16 or float64.
        folded: weights from :func:`ht_kernels.fold.fold_adapter`: float64 for float64 ``x``, else float32. Without
            gradients the three matrices may be in the dtype of ``x`` (:func:`ht_kernels.fold.cast_matrices`).
        grid: (H, W) of the patch grid.
        prefix_tokens: P; these skip the spatial part.
        eps: LayerNorm's epsilon.
        keep: dropout factors (B, N, C), 0 or 1/(1-p), applied before the up projection; None for no dropout.
        backend: force a backend by name; it then never falls back.

    Returns:
        A tensor with the shape, dtype and strides of ``x``.

    Raises:
        ValueError: a shape or grid does not fit; TypeError: a dtype does not fit. The message names the argument,
            what came and what was expected.
        BackendError: a backend asked for by name cannot run this call.

    Formula: :class:`ht_kernels.fold.FoldedAdapter`.
    """
    _check(x, folded, grid, prefix_tokens, keep)
    needs_grad = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *folded))
    needs_grad = needs_grad or keep is not None
    case = Case(x.device, x.dtype, x.shape[2], folded.up_weight.shape[1], grid, prefix_tokens, needs_grad)
    name = choose(case, backend)
    if name == "cuda":
        return operators.adapter_inference(x, folded, grid, prefix_tokens, eps, _may_use_tf32(x))
    if folded.down_weight.dtype != folded.down_bias.dtype:
        folded = cast_matrices(folded, folded.down_bias.dtype)
    if name == "reference":
        return reference.adapter(x, folded, grid, prefix_tokens, eps, keep)
    return operators.adapter(x, folded, grid, prefix_tokens, eps, keep)


def _may_use_tf32(x: Tensor) -> bool:
    """Whether float32 products on a GPU may be rounded: torch was told so, or autocast, which rounds more, is on."""
    if x.dtype != torch.float32:
        return False
    return torch.is_autocast_enabled("cuda") or torch.get_float32_matmul_precision() != "highest"


def dynamic_depthwise(s: Tensor, kernels: Tensor, bias: Tensor) -> Tensor:
    """Depthwise convolution with a kernel per image, zero padded, differentiable in all arguments (identity 2).

    Args:
        s: images (B, C, H, W).
        kernels: (B, C, k, k), k odd; :func:`ht_kernels.fold.image_kernels` makes them for an adapter.
        bias: (B, C).

    Returns:
        (B, C, H, W).

    Raises:
        ValueError: a shape does not fit.
    """
    if s.dim() != 4:
        raise ValueError(f"s must have shape (batch, channels, height, width), got {tuple(s.shape)}")
    side = kernels.shape[-1]
    if kernels.shape != (*s.shape[:2], side, side) or side % 2 == 0:
        raise ValueError(f"kernels must have shape {(*s.shape[:2], 'k', 'k')} with k odd, got {tuple(kernels.shape)}")
    if bias.shape != s.shape[:2]:
        raise ValueError(f"bias must have shape {tuple(s.shape[:2])}, got {tuple(bias.shape)}")
    return reference.dynamic_depthwise(s, kernels, bias)


def feature_pyramid(
    features: Sequence[Tensor], levels: Sequence[FoldedLevel], bias: Tensor, *, pool: bool = False
) -> Tensor:
    """The feature pyramid on folded levels, differentiable in the features and in every folded weight.

    Args:
        features: one (B, N, D) per level, patch tokens only; any strides. Computed in the dtype of the levels.
        levels, bias: from :func:`ht_kernels.fold.fold_pyramid`.
        pool: return the mean over tokens, taken before the last matrix product (identity 8).

    Returns:
        (B, N, K), or (B, K) when pooled; K is R where no head was folded in. The dtype of the levels.

    Raises:
        ValueError: the number of features, or the shape of one, does not fit.

    Formula: :class:`ht_kernels.fold.FoldedLevel`, summed over levels.
    """
    if len(features) != len(levels):
        raise ValueError(f"features must have one tensor per level, got {len(features)} for {len(levels)} levels")
    out = bias
    for i, (x, level) in enumerate(zip(features, levels, strict=True)):
        width, dim = level.reduce_weight.shape
        if x.dim() != 3 or x.shape[2] != dim:
            raise ValueError(f"features[{i}] must have shape (batch, tokens, {dim}), got {tuple(x.shape)}")
        hidden = F.linear(x.to(level.reduce_weight.dtype), level.reduce_weight, level.reduce_bias)
        hidden = F.layer_norm(hidden, (width,), eps=level.eps)
        hidden = F.gelu(F.linear(hidden, level.hidden_weight, level.hidden_bias))
        out = out + F.linear(hidden.mean(1) if pool else hidden, level.last_weight)
    return out


def _check(x: Tensor, folded: FoldedAdapter, grid: tuple[int, int], prefix_tokens: int, keep: Tensor | None) -> None:
    if x.dim() != 3:
        raise ValueError(f"x must have shape (batch, tokens, dim), got {tuple(x.shape)}")
    if x.dtype not in _FLOATING:
        raise TypeError(f"x must be float32, bfloat16, float16 or float64, got {x.dtype}")
    height, width = grid
    if height < 1 or width < 1 or prefix_tokens < 0:
        raise ValueError(f"grid must be positive and prefix_tokens not negative, got {grid} and {prefix_tokens}")
    if x.shape[1] != prefix_tokens + height * width:
        raise ValueError(
            f"x has {x.shape[1]} tokens, but prefix_tokens {prefix_tokens} + grid {height}x{width} "
            f"makes {prefix_tokens + height * width}"
        )
    dim, bottleneck = folded.up_weight.shape
    if x.shape[2] != dim:
        raise ValueError(f"x has width {x.shape[2]}, but the adapter was made for {dim}")
    _check_folded(folded, dim, bottleneck, x)
    if keep is not None and keep.shape != (*x.shape[:2], bottleneck):
        raise ValueError(f"keep must have shape {(*x.shape[:2], bottleneck)}, got {tuple(keep.shape)}")


def _check_folded(folded: FoldedAdapter, dim: int, bottleneck: int, x: Tensor) -> None:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    hidden = 0 if folded.hidden_weight is None else folded.hidden_weight.shape[0]
    scales = 3 if hidden else 1
    shapes: tuple[tuple[int, ...] | None, ...] = (
        (bottleneck, dim),
        (dim,),
        (dim,),
        (bottleneck,),
        (scales, bottleneck, KERNEL_SIZE, KERNEL_SIZE),
        (scales, bottleneck),
        (hidden, bottleneck) if hidden else None,
        (hidden,) if hidden else None,
        (scales, hidden) if hidden else None,
        (scales,) if hidden else None,
        (bottleneck, bottleneck),
        (bottleneck,),
        (dim, bottleneck),
        (dim,),
    )
    for name, weight, shape in zip(FoldedAdapter._fields, folded, shapes, strict=True):
        if weight is None and shape is None:
            continue
        if weight is None or shape is None or weight.shape != shape:
            found = None if weight is None else tuple(weight.shape)
            raise ValueError(f"folded.{name} must have shape {shape}, got {found}")
        if weight.dtype != dtype and not (weight.dtype == x.dtype and name in _MATRICES):
            raise TypeError(f"folded.{name} must be {dtype} for this x, got {weight.dtype}")
        if weight.device != x.device:
            raise ValueError(f"folded.{name} is on {weight.device}, but x is on {x.device}")
