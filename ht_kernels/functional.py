"""The public functions. They check their arguments, and what has kernels goes on to :mod:`ht_kernels.ops`.

The kernels take addresses and trust them, so every tensor that reaches them is checked here: its shape, its dtype and
its device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import pair
from .backends import reference
from .backends.call import Layout
from .choices import FORMS
from .folding import KERNEL_SIZE, MATRICES, FoldedAdapter, FoldedLevel, Unfolded, fold, mask_pairs, radial_mask
from .ops.adapter import adapter, adapter_unfolded, again
from .ops.adapter_norm import adapter_and_norm
from .ops.dispatch import asked_for
from .ops.fold import combine
from .ops.grid_to_mask import grid_to_mask as mask_of_grid
from .ops.spectral import spectral_filter as filter_images
from .ops.step import takes as takes_step

__all__ = [
    "dynamic_depthwise",
    "feature_pyramid",
    "grid_to_mask",
    "ht_adapter",
    "ht_adapter_and_norm",
    "ht_adapter_unfolded",
    "spectral_filter",
]

_FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_LARGEST_SIDE = 2**24
"""The largest side of a mask, up to which every place is a float32."""


def ht_adapter(
    x: Tensor,
    folded: FoldedAdapter,
    grid: tuple[int, int],
    prefix_tokens: int = 1,
    *,
    eps: float = 1e-5,
    keep: Tensor | None = None,
    dropout: float = 0.0,
    backend: str | None = None,
) -> Tensor:
    """The Hybrid-tuning adapter on folded weights, differentiable in ``x`` and in every folded weight.

    Args:
        x: tokens (B, P + H*W, D): P prefix tokens, then the patch grid row by row; float32, bfloat16, float16 or
            float64. ``x`` may have any strides, so a sequence-first tensor can be passed transposed.
        folded: weights from :func:`ht_kernels.folding.fold_adapter`: float64 for float64 ``x``, else float32. Without
            gradients the three matrices may be in the dtype of ``x`` (:func:`ht_kernels.folding.cast_matrices`), and
            the backend keeps what it prepares of the weights with ``folded``, until one of them is written in place or
            moved. Only a write through ``weight.data`` or NumPy is not noticed: pass ``FoldedAdapter(*folded)`` then.
        grid: the patch grid (H, W).
        prefix_tokens: the number P of prefix tokens, which skip the spatial part.
        eps: LayerNorm's epsilon, positive.
        keep: dropout factors (B, N, C), 0 or 1/(1-p), applied before the up projection, in the dtype of the biases:
            float64 for float64 ``x``, else float32. None to draw them.
        dropout: the probability p, from 0 to 1, of a zero when the factors are drawn, from torch's generator.
        backend: the name of a backend to use, without falling back to another; None for the best that can run the call.

    Returns:
        A tensor with the shape, dtype and strides of ``x``.

    Raises:
        ValueError: a shape, a device or the grid does not fit, a number is out of range, or no backend has the name.
            The message names the argument, what came and what was expected.
        TypeError: x is no tensor, or a dtype does not fit; the message is of the same kind.
        BackendError: the backend asked for by name cannot run this call.

    :class:`ht_kernels.folding.FoldedAdapter` gives the formula.
    """
    height, width = _sides(grid)
    if keep is None and dropout == 0 and backend is None and not torch.is_grad_enabled() and isinstance(x, Tensor):
        out: Tensor | None = again(x, folded, height, width, prefix_tokens, eps)
        if out is not None:
            return out
    _check_tensors(x=x)
    _check_folded(folded, x)
    _check(x, folded.up_weight, folded.mask, grid, prefix_tokens)
    _check_numbers(eps, dropout)
    if keep is not None:
        _check_tensors(keep=keep)
        _check_keep(keep, x, folded)
    return adapter(x, folded, Layout(height, width, prefix_tokens, eps), keep, dropout, asked_for(backend))


def ht_adapter_and_norm(
    x: Tensor,
    folded: FoldedAdapter,
    grid: tuple[int, int],
    prefix_tokens: int = 1,
    *,
    eps: float = 1e-5,
    norm_eps: float = 1e-5,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """The Hybrid-tuning adapter, and the LayerNorm of its result without gain and bias.

    A transformer block begins with a LayerNorm, whose gain and bias can be folded into the product behind it. On a GPU,
    the CUDA kernels write it beside the adapter's result; elsewhere torch computes it.

    Args:
        x, folded, grid, prefix_tokens, eps, backend: as for :func:`ht_adapter`.
        norm_eps: the epsilon of that LayerNorm, positive.

    Returns:
        The adapter's result, with the shape, dtype and strides of ``x``, and its LayerNorm, contiguous.

    Raises: as :func:`ht_adapter`.
    """
    height, width = _sides(grid)
    _check_eps("norm_eps", norm_eps)
    if backend is None and not torch.is_grad_enabled() and isinstance(x, Tensor):
        both: tuple[Tensor, Tensor] | None = again(x, folded, height, width, prefix_tokens, eps, norm_eps)
        if both is not None:
            return both
    _check_tensors(x=x)
    _check_folded(folded, x)
    _check(x, folded.up_weight, folded.mask, grid, prefix_tokens)
    _check_numbers(eps, 0.0)
    return adapter_and_norm(x, folded, Layout(height, width, prefix_tokens, eps), norm_eps, asked_for(backend))


def ht_adapter_unfolded(
    x: Tensor,
    weights: Unfolded,
    grid: tuple[int, int],
    prefix_tokens: int = 1,
    *,
    eps: float = 1e-5,
    dropout: float = 0.0,
) -> Tensor:
    """The Hybrid-tuning adapter on published weights, differentiable in ``x`` and in every weight.

    With gradients on the CPU, the fold and the adapter run as one. That is for training, where weights change with
    every call; for others fold once and call :func:`ht_adapter`.

    Args:
        x, grid, prefix_tokens, eps, dropout: as for :func:`ht_adapter`.
        weights: the weights of an adapter from :func:`ht_kernels.folding.unfolded`.

    Returns, raises: as :func:`ht_adapter`.
    """
    _check_tensors(x=x)
    if not takes_step(x, weights):
        return ht_adapter(x, fold(weights, combine), grid, prefix_tokens, eps=eps, dropout=dropout)
    height, width = _sides(grid)
    up_weight, mask = weights.others["up_weight"], weights.others["mask"]
    assert up_weight is not None, "every adapter has this weight"
    _check(x, up_weight, mask, grid, prefix_tokens)
    _check_numbers(eps, dropout)
    return adapter_unfolded(x, weights, Layout(height, width, prefix_tokens, eps), dropout)


def spectral_filter(x: Tensor, mask: Tensor, form: str = "full", *, backend: str | None = None) -> Tensor:
    """Apply a mask over frequencies, ``irfft2(mask * rfft2(x))``. Differentiable in both arguments.

    As in ``torch.fft.irfft2``, a part of the spectrum that no real image can have is dropped: in column 0 and, when W
    is even, in the last column, only the Hermitian-symmetric part counts. The gradient of a complex mask follows
    torch's convention.

    Args:
        x: images (B, C, H, W); float32, bfloat16, float16 or float64.
        mask: complex128 or float64 for float64 ``x``, else complex64 or float32. Its shape depends on ``form``.
        form: ``full`` for one mask per channel, (C, H, W // 2 + 1); ``shared`` for one mask for all channels,
            (1, H, W // 2 + 1); ``radial`` for a real mask (C, R), R at least 2, that fits any H and W. The R values of
            a radial mask lie at equal steps of the radius, from frequency zero to the highest frequency, sqrt(1/2)
            cycles per pixel, with linear interpolation between them.
        backend: the name of a backend to use, without falling back to another; None for the best that can run the call.

    Returns:
        The filtered images (B, C, H, W), in the dtype of ``x``.

    Raises:
        ValueError: a shape or a device does not fit, or the form or the backend is unknown.
        TypeError: an argument is no tensor, or a dtype does not fit.
        BackendError: the backend asked for by name cannot run this call.
    """
    _check_tensors(x=x, mask=mask)
    _check_filter(x, mask, form)
    grid = (x.shape[2], x.shape[3])
    pairs = mask_pairs(radial_mask(mask, grid) if form == "radial" else mask)
    return filter_images(x, pairs, asked_for(backend))


def grid_to_mask(logits: Tensor, size: tuple[int, int], *, backend: str | None = None) -> Tensor:
    """The class of each pixel of images, from logits on a grid: bilinear upsampling and the largest logit in one pass.

    Equal, ties aside, to ``classes_of(F.interpolate(logits, size, mode="bilinear", align_corners=False))``, without the
    K x H x W numbers in between; :mod:`ht_kernels.classes` says which class wins. Not differentiable.

    Args:
        logits: logits (B, K, h, w) on a grid, any strides, K from 1 to 256; float32, bfloat16, float16 or float64. They
            have to be finite: near a logit that is not, the class is any of those that K logits tell apart.
        size: (H, W) of the masks, larger or smaller than the grid.
        backend: the name of a backend to use, without falling back to another; None for the best that can run the call.

    Returns:
        Masks (B, H, W) uint8, on the device of ``logits``.

    Raises:
        ValueError: the shape or the size does not fit, or no backend has the name.
        TypeError: the logits are no tensor, or not floating point.
        BackendError: the backend asked for by name cannot run this call.
    """
    _check_tensors(logits=logits)
    if logits.dim() != 4 or not 1 <= logits.shape[1] <= 256 or min(logits.shape[2:]) < 1:
        shape = "(batch, 1 to 256 classes, height, width)"
        raise ValueError(f"logits must have shape {shape}, got {tuple(logits.shape)}")
    _check_floating("logits", logits)
    sides = pair(size)
    if sides is None or not all(1 <= side <= _LARGEST_SIDE for side in sides):
        raise ValueError(f"size must be (height, width), two whole numbers from 1 to {_LARGEST_SIDE}, got {size!r}")
    return mask_of_grid(logits, sides, asked_for(backend) if backend is not None else None)


def dynamic_depthwise(s: Tensor, kernels: Tensor, bias: Tensor) -> Tensor:
    """Zero-padded depthwise convolution with a kernel per image (identity 2). Differentiable in all arguments.

    Args:
        s: images (B, C, H, W); float32, bfloat16, float16 or float64.
        kernels: kernels (B, C, k, k), k odd, in the dtype of ``s``; :func:`ht_kernels.folding.image_kernels` makes them
            for an adapter.
        bias: biases (B, C), in the dtype of ``s``.

    Returns:
        The convolved images (B, C, H, W).

    Raises:
        ValueError: a shape or a device does not fit.
        TypeError: an argument is no tensor, or a dtype does not fit.
    """
    _check_tensors(s=s, kernels=kernels, bias=bias)
    if s.dim() != 4:
        raise ValueError(f"s must have shape (batch, channels, height, width), got {tuple(s.shape)}")
    _check_floating("s", s)
    side = kernels.shape[-1] if kernels.dim() == 4 else 0
    if kernels.shape != (*s.shape[:2], side, side) or side % 2 == 0:
        raise ValueError(f"kernels must have shape {(*s.shape[:2], 'k', 'k')} with k odd, got {tuple(kernels.shape)}")
    if bias.shape != s.shape[:2]:
        raise ValueError(f"bias must have shape {tuple(s.shape[:2])}, got {tuple(bias.shape)}")
    for name, t in (("kernels", kernels), ("bias", bias)):
        if t.dtype != s.dtype:
            raise TypeError(f"{name} must be {s.dtype}, the dtype of s, got {t.dtype}")
        if t.device != s.device:
            raise ValueError(f"{name} is on {t.device}, but s is on {s.device}")
    return reference.dynamic_depthwise(s, kernels, bias)


def feature_pyramid(
    features: Sequence[Tensor], levels: Sequence[FoldedLevel], bias: Tensor, *, pool: bool = False
) -> Tensor:
    """The feature pyramid on folded levels, differentiable in the features and in every folded weight.

    Args:
        features: the patch tokens (B, N, D) for each level, with any strides; float32, bfloat16, float16 or float64.
            They are cast to the dtype of the levels.
        levels: folded levels from :func:`ht_kernels.folding.fold_pyramid`.
        bias: the bias (K,) from the same function, or the scores of other levels, to which these are added.
        pool: return the mean over tokens, which is taken before the last matrix product (identity 8).

    Returns:
        Scores (B, N, K), or (B, K) with ``pool``, in the dtype of the levels. K is R if no head was folded in.

    Raises:
        ValueError: the number of features does not fit, or the shape or the device of a tensor.
        TypeError: features are no tensors, or not floating point.

    :class:`ht_kernels.folding.FoldedLevel` gives the formula of a level; the levels are summed.
    """
    if len(features) != len(levels):
        raise ValueError(f"features must have one tensor per level, got {len(features)} for {len(levels)} levels")
    out = bias
    for i, (x, level) in enumerate(zip(features, levels, strict=True)):
        width, dim = level.reduce_weight.shape
        _check_tensors(**{f"features[{i}]": x})
        if x.dim() != 3 or x.shape[2] != dim:
            raise ValueError(f"features[{i}] must have shape (batch, tokens, {dim}), got {tuple(x.shape)}")
        _check_floating(f"features[{i}]", x)
        _check_level(i, level, x)
        hidden = F.linear(x.to(level.reduce_weight.dtype), level.reduce_weight, level.reduce_bias)
        hidden = F.layer_norm(hidden, (width,), eps=level.eps)
        hidden = F.gelu(F.linear(hidden, level.hidden_weight, level.hidden_bias))
        scores = F.linear(hidden.mean(1) if pool else hidden, level.last_weight)
        if out.shape != (scores.shape if out.dim() > 1 else scores.shape[-1:]):
            shapes = f"{tuple(scores.shape[-1:])} or {tuple(scores.shape)}"
            raise ValueError(f"bias must have shape {shapes}, got {tuple(out.shape)}")
        out = out + scores
    return out


def _sides(grid: tuple[int, int]) -> tuple[int, int]:
    """The height and width of a grid. Later checks look at the numbers."""
    try:
        height, width = grid
    except (TypeError, ValueError):
        raise ValueError(f"grid must be two numbers, (height, width), got {grid!r}") from None
    return height, width


def _check_tensors(**arguments: object) -> None:
    for name, given in arguments.items():
        if not isinstance(given, Tensor):
            raise TypeError(
                f"{name} must be a tensor, got {type(given).__name__}: torch.as_tensor makes one of an array"
            )


def _check_floating(name: str, t: Tensor) -> None:
    if t.dtype not in _FLOATING:
        raise TypeError(f"{name} must be float32, bfloat16, float16 or float64, got {t.dtype}")


def _check(x: Tensor, up_weight: Tensor, mask: Tensor | None, grid: tuple[int, int], prefix_tokens: int) -> None:
    if x.dim() != 3:
        raise ValueError(f"x must have shape (batch, tokens, dim), got {tuple(x.shape)}")
    _check_floating("x", x)
    height, width = grid
    if isinstance(height, (float, str)) or isinstance(width, (float, str)) or isinstance(prefix_tokens, (float, str)):
        raise TypeError(f"grid and prefix_tokens must be whole numbers, got {grid!r} and {prefix_tokens!r}")
    if height < 1 or width < 1 or prefix_tokens < 0:
        raise ValueError(f"grid must be positive and prefix_tokens not negative, got {grid} and {prefix_tokens}")
    if x.shape[1] != prefix_tokens + height * width:
        raise ValueError(
            f"x has {x.shape[1]} tokens, but prefix_tokens {prefix_tokens} + grid {height}x{width} "
            f"makes {prefix_tokens + height * width}"
        )
    dim, bottleneck = up_weight.shape
    if x.shape[2] != dim:
        raise ValueError(f"x has width {x.shape[2]}, but the adapter was made for {dim}")
    if up_weight.device != x.device:
        raise ValueError(f"x is on {x.device}, but the adapter is on {up_weight.device}")
    if mask is not None:
        _check_mask(mask, bottleneck, grid)


def _check_numbers(eps: float, dropout: float) -> None:
    _check_eps("eps", eps)
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout must be a probability, from 0 to 1, got {dropout}")


def _check_eps(name: str, eps: float) -> None:
    if not 0 < eps < math.inf:
        raise ValueError(f"{name} must be a positive number, got {eps}")


def _check_keep(keep: Tensor, x: Tensor, folded: FoldedAdapter) -> None:
    shape = (*x.shape[:2], folded.up_weight.shape[1])
    if keep.shape != shape:
        raise ValueError(f"keep must have shape {shape}, got {tuple(keep.shape)}")
    if keep.dtype != folded.down_bias.dtype:
        raise TypeError(f"keep must be {folded.down_bias.dtype} for this x, got {keep.dtype}")
    if keep.device != x.device:
        raise ValueError(f"keep is on {keep.device}, but x is on {x.device}")


def _check_mask(mask: Tensor, channels: int, grid: tuple[int, int]) -> None:
    """Check the mask of a folded adapter, which holds pairs of real and imaginary parts, or radial curves."""
    frequencies = (grid[0], grid[1] // 2 + 1, 2)
    radial = mask.dim() == 2 and mask.shape[0] == channels and mask.shape[1] >= 2
    if not radial and mask.shape not in ((channels, *frequencies), (1, *frequencies)):
        raise ValueError(
            f"folded.mask must have shape {(channels, *frequencies)}, {(1, *frequencies)} or {(channels, 'R')} on a "
            f"grid of {grid[0]}x{grid[1]}, got {tuple(mask.shape)}"
        )


def _check_filter(x: Tensor, mask: Tensor, form: str) -> None:
    if form not in FORMS:
        raise ValueError(f"unknown spectral form '{form}', expected one of {', '.join(FORMS)}")
    if x.dim() != 4 or x.shape[2] < 1 or x.shape[3] < 1:
        raise ValueError(f"x must have shape (batch, channels, height, width), got {tuple(x.shape)}")
    _check_floating("x", x)
    _, channels, height, width = x.shape
    real = torch.float64 if x.dtype == torch.float64 else torch.float32
    if form == "radial":
        if mask.dim() != 2 or mask.shape[0] != channels or mask.shape[1] < 2:
            raise ValueError(
                f"mask of form 'radial' must have shape {(channels, 'R')} with R at least 2, got {tuple(mask.shape)}"
            )
        if mask.dtype != real:
            raise TypeError(f"mask of form 'radial' must be {real} for this x, got {mask.dtype}")
    else:
        shape = (channels if form == "full" else 1, height, width // 2 + 1)
        if mask.shape != shape:
            raise ValueError(f"mask of form '{form}' must have shape {shape} for this x, got {tuple(mask.shape)}")
        if mask.dtype not in (real, real.to_complex()):
            raise TypeError(f"mask must be {real} or {real.to_complex()} for this x, got {mask.dtype}")
    if mask.device != x.device:
        raise ValueError(f"mask is on {mask.device}, but x is on {x.device}")


def _check_folded(folded: FoldedAdapter, x: Tensor) -> None:
    if not isinstance(folded, FoldedAdapter):
        raise TypeError(f"folded must be a FoldedAdapter, got {type(folded).__name__}: adapter.folded() gives one")
    dim, bottleneck = folded.up_weight.shape
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    hidden = 0 if folded.hidden_weight is None else folded.hidden_weight.shape[0]
    scales = 3 if hidden else 1
    shapes: dict[str, tuple[int, ...] | None] = {
        "down_weight": (bottleneck, dim),
        "norm_gain": (dim,),
        "skip_gain": (dim,),
        "down_bias": (bottleneck,),
        "scale_kernels": (scales, bottleneck, KERNEL_SIZE, KERNEL_SIZE),
        "scale_bias": (scales, bottleneck),
        "hidden_weight": (hidden, bottleneck) if hidden else None,
        "hidden_bias": (hidden,) if hidden else None,
        "score_weight": (scales, hidden) if hidden else None,
        "score_bias": (scales,) if hidden else None,
        "mix_weight": (bottleneck, bottleneck),
        "mix_bias": (bottleneck,),
        "up_weight": (dim, bottleneck),
        "up_bias": (dim,),
        "mask": None if folded.mask is None else tuple(folded.mask.shape),  # _check compares it with the grid
    }
    for name, weight in folded._asdict().items():
        shape = shapes[name]
        if weight is None and shape is None:
            continue
        if weight is None or shape is None or weight.shape != shape:
            found = None if weight is None else tuple(weight.shape)
            raise ValueError(f"folded.{name} must have shape {shape}, got {found}")
        if weight.dtype != dtype and not (weight.dtype == x.dtype and name in MATRICES):
            raise TypeError(f"folded.{name} must be {dtype} for this x, got {weight.dtype}")
        if weight.device != x.device:
            raise ValueError(f"folded.{name} is on {weight.device}, but x is on {x.device}")


def _check_level(index: int, level: FoldedLevel, x: Tensor) -> None:
    """Check what torch would broadcast or leave unnamed; under autocast, the dtypes of a level's weights may differ."""
    width, dim = level.reduce_weight.shape
    shapes = ((width, dim), (width,), (width, width), (width,), (level.last_weight.shape[0], width))
    for name, weight, shape in zip(level._fields[:-1], level[:-1], shapes, strict=True):
        if weight.shape != shape:
            raise ValueError(f"levels[{index}].{name} must have shape {shape}, got {tuple(weight.shape)}")
        if weight.device != x.device:
            raise ValueError(f"levels[{index}].{name} is on {weight.device}, but features[{index}] is on {x.device}")


def __dir__() -> list[str]:
    return __all__
