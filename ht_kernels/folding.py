"""Folding: identities that turn the published mathematics into less work with the same result.

Every function here is an identity in exact arithmetic and differentiable in its inputs. So kernels compute gradients
only of the folded weights, and autograd carries them on to the published parameters. Parameters in low precision are
folded in float32. This file imports nothing but torch. docs/algebra.md has the numbered identities with their proofs.

Notation: D is the token width, C the bottleneck width, R the pyramid width, K the number of classes, and S the number
of scales whose kernels stay separate: 3 if an image chooses its own scale weights, else 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, get_args, get_type_hints

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

KERNEL_SIZE = 7
"""The side of the depthwise kernel into which the 3x3, 5x5 and 7x7 kernels are merged."""


class _Weights(NamedTuple):
    """The only list of folded weights in Python. Operator schemas, and all code that loops over weights, use it.

    ``HT_ADAPTER_WEIGHTS`` in csrc/include/ht_kernels.h is the same list for C. The build compares the two.
    """

    down_weight: Tensor  # (C, D)
    norm_gain: Tensor  # (D,)
    skip_gain: Tensor  # (D,)
    down_bias: Tensor  # (C,)
    scale_kernels: Tensor  # (S, C, 7, 7)
    scale_bias: Tensor  # (S, C)
    hidden_weight: Tensor | None  # (C // 4, C), None when S = 1
    hidden_bias: Tensor | None  # (C // 4,)
    score_weight: Tensor | None  # (3, C // 4)
    score_bias: Tensor | None  # (3,)
    mix_weight: Tensor  # (C, C)
    mix_bias: Tensor  # (C,)
    up_weight: Tensor  # (D, C)
    up_bias: Tensor  # (D,)
    mask: Tensor | None = None  # (C or 1, H, W // 2 + 1, 2): real and imaginary parts; or radial, (C, R)


class FoldedAdapter(_Weights):
    """The weights of an adapter as the kernels take them, in float32, or in float64 for a float64 adapter.

    With ``mean`` and ``rstd`` the LayerNorm statistics of a token and ``w`` (S,) the scale weights of an image,
    the adapter computes::

        h   = down_weight @ (x * (rstd * norm_gain + skip_gain) - mean * rstd * norm_gain) + down_bias
        K   = sum_s w[s] * scale_kernels[s]                     (C, 7, 7); the spatial residual is its centre tap
        Y   = depthwise(S, K) + sum_s w[s] * scale_bias[s]      S: h on the patch grid, zero padded
        m   = [h_prefix, mix_weight @ Y + mix_bias]
        out = x + up_weight @ gelu(m) + up_bias

    With a spectral ``mask``, ``scale_kernels`` do not contain the residual, and
    ``Y = depthwise(irfft2(mask * rfft2(S)), K) + S + ...``.

    ``w`` is 1 when S = 1. When S = 3 it is
    ``softmax(score_weight @ relu(hidden_weight @ mean_hw(S) + hidden_bias) + score_bias)``.
    """

    prepared: Any = None
    """The prepared weights of the backends; see :mod:`ht_kernels.ops.prepared`. Copies start without this attribute."""

    def __reduce__(self) -> Any:
        return FoldedAdapter, tuple(self)

    def map(self, change: Callable[[Tensor], Tensor]) -> FoldedAdapter:
        """Apply ``change`` to every weight that is not None."""
        return FoldedAdapter(*(None if t is None else change(t) for t in self))  # type: ignore[arg-type]


MATRICES = ("down_weight", "mix_weight", "up_weight")
"""The fields that GPU kernels take in the dtype of the tokens, when tokens are 16-bit."""
OPTIONAL = tuple(name for name, kind in get_type_hints(_Weights).items() if type(None) in get_args(kind))
"""The fields that may be None: the weights of the noise estimator, which exists when S = 3, and the mask."""


def cast_matrices(folded: FoldedAdapter, dtype: torch.dtype) -> FoldedAdapter:
    """Return ``folded`` with ``down_weight``, ``mix_weight`` and ``up_weight`` cast to ``dtype``.

    GPU kernels multiply matrices in the dtype of 16-bit tokens. If the matrices are cast once, no call has to do it.
    """
    return folded._replace(
        down_weight=folded.down_weight.to(dtype),
        mix_weight=folded.mix_weight.to(dtype),
        up_weight=folded.up_weight.to(dtype),
    )


def at_least_float32(t: Tensor) -> Tensor:
    """Return ``t`` in float32, or unchanged if it is float64."""
    return t if t.dtype == torch.float64 else t.float()


def pad_kernel(kernel: Tensor) -> Tensor:
    """Zero-pad a depthwise kernel (C, 1, k, k), k odd and at most 7, to (C, 7, 7) around its centre."""
    margin = (KERNEL_SIZE - kernel.shape[-1]) // 2
    return F.pad(kernel[:, 0], (margin, margin, margin, margin))


def merge_scales(kernels: Iterable[Tensor], gain: Tensor | None, residual: bool = True) -> Tensor:
    """Stack 3x3, 5x5 and 7x7 kernels as (3, C, 7, 7), and fold the frequency gain and the residual into each.

    A gain per channel commutes with the Fourier transform, ``irfft2(a * rfft2(S)) = a * S``, so it scales the
    kernels (identity 1). The residual ``+ S`` is a one at the centre tap (identity 2). It can be added to every scale,
    because the scale weights sum to one. With a spectral filter, the convolution reads F instead of S, so the residual
    cannot be folded: pass ``residual=False``.
    """
    stack = torch.stack([pad_kernel(at_least_float32(k)) for k in kernels])
    if gain is not None:
        stack = stack * at_least_float32(gain).view(1, -1, 1, 1)
    if not residual:
        return stack
    centre = torch.zeros(KERNEL_SIZE, KERNEL_SIZE, dtype=stack.dtype, device=stack.device)
    centre[KERNEL_SIZE // 2, KERNEL_SIZE // 2] = 1
    return stack + centre


def mask_pairs(mask: Tensor) -> Tensor:
    """Return a real or complex mask as real and imaginary parts in a new last dimension of size 2."""
    if mask.is_complex():
        return torch.view_as_real(mask.resolve_conj())
    return torch.stack([mask, torch.zeros_like(mask)], -1)


def radial_mask(curve: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the real mask (C, H, W // 2 + 1) that curves (C, R) over the radius of a frequency give; R is at least 2.

    The R values of a curve lie at equal steps from radius 0 to the radius of the highest frequency, sqrt(1/2) cycles
    per patch. Between them the curve is interpolated linearly.
    """
    rows = torch.fft.fftfreq(grid[0], dtype=curve.dtype, device=curve.device)
    columns = torch.fft.rfftfreq(grid[1], dtype=curve.dtype, device=curve.device)
    at = (2 * (rows[:, None].square() + columns.square())).sqrt() * (curve.shape[1] - 1)
    steps = torch.arange(curve.shape[1], dtype=curve.dtype, device=curve.device).view(-1, 1, 1)
    share = (1 - (at - steps).abs()).clamp_min(0)
    mask: Tensor = (curve[:, :, None, None] * share).sum(1)  # autocast would round einsum
    return mask


def on_grid(folded: FoldedAdapter, grid: tuple[int, int]) -> FoldedAdapter:
    """Return ``folded`` with a radial mask expanded to the frequencies of ``grid``. Any other mask is not changed."""
    if folded.mask is None or folded.mask.dim() != 2:
        return folded
    return folded._replace(mask=mask_on_grid(folded.mask, grid))


def mask_on_grid(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return a radial mask (C, R) of an adapter as pairs on the frequencies of ``grid``; any other is not changed."""
    return mask_pairs(radial_mask(mask, grid)) if mask.dim() == 2 else mask


def fourier_matrices(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return matrices that turn ``irfft2(M * rfft2(S))`` into a few products of small real matrices, in float64.

    With the real and imaginary parts of a spectrum stacked, the filter is ``rows' columns' (share * M) columns rows``,
    where ``'`` is the transpose: the transform, the mask, and the transposed transform as the inverse. The sines of
    columns 0 and W / 2 are zero, so imaginary parts there have no effect, as in ``irfft2``. Here V = W // 2 + 1.

    Returns:
        ``rows`` (2V, W), the transform over the width: cos(2 pi v j / W), then -sin(2 pi v j / W); ``columns``
        (2H, 2H), the complex transform over the height: ``[[cos, sin], [-sin, cos]]``; and ``share`` (V,), the weight
        of each column of the spectrum: 1 / (H W) for column 0 and, when W is even, for the last column, 2 / (H W) for
        the columns between, each of which stands for two frequencies.
    """

    def angles(n: int, m: int) -> Tensor:
        return 2 * torch.pi / n * (torch.arange(m)[:, None] * torch.arange(n) % n).double()

    half = width // 2 + 1
    across, down = angles(width, half), angles(height, height)
    sines = across.sin()
    sines[0] = 0
    if width % 2 == 0:
        sines[-1] = 0
    rows = torch.cat([across.cos(), -sines])
    cos, sin = down.cos(), down.sin()
    columns = torch.cat([torch.cat([cos, sin], 1), torch.cat([-sin, cos], 1)])
    share = torch.full((half,), 2 / (height * width), dtype=torch.float64)
    share[0] /= 2
    if width % 2 == 0 and width > 1:
        share[-1] /= 2
    return rows, columns, share


def noise_weights(folded: FoldedAdapter, pooled: Tensor) -> Tensor:
    """Scale weights (B, S) from ``pooled`` (B, C), the mean of the bottleneck over the patch grid (identity 3)."""
    if folded.hidden_weight is None or folded.score_weight is None:
        return pooled.new_ones(pooled.shape[0], 1)
    hidden = F.relu(F.linear(pooled, folded.hidden_weight, folded.hidden_bias))
    return F.linear(hidden, folded.score_weight, folded.score_bias).softmax(-1)


def image_kernels(folded: FoldedAdapter, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Merge the scales by their weights (B, S) into one depthwise kernel per image, (B, C, 7, 7), and its bias (B, C).

    This is identity 2.
    """
    return torch.einsum("bs,schw->bchw", weights, folded.scale_kernels), weights @ folded.scale_bias


def add_residual(weight: Tensor) -> Tensor:
    """Return ``I + W``, which computes a square matrix product and its residual at once (identity 4)."""
    return weight + torch.eye(weight.shape[0], dtype=weight.dtype, device=weight.device)


def split_norm(down_weight: Tensor, norm_gain: Tensor, skip_gain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``Wa``, ``Wb`` (C, D) and ``rowsum(Wa)`` (C,), for kernels that multiply x before it is normalized.

    By identity 5, ``h = rstd * (Wa x - mean * rowsum(Wa)) + Wb x + down_bias``. A backend that rounds Wa must take the
    row sum of the rounded matrix; otherwise the mean does not cancel.
    """
    wa = down_weight * norm_gain
    return wa, down_weight * skip_gain, wa.sum(-1)


WEIGHT_HOOKS = BasePruningMethod, WeightNorm, SpectralNorm
"""The forward pre-hooks by which torch's utilities compute a weight from other parameters."""

_PARTS: dict[str, type[nn.Module]] = {
    "project1": nn.Linear,
    "project2": nn.Linear,
    "norm": nn.LayerNorm,
    **{f"adapter_conv.{part}": nn.Conv2d for part in ("conv1", "conv2", "conv3", "projector")},
}
_ESTIMATOR: dict[str, type[nn.Module]] = {f"adapter_conv.noise_estimator.{i}": nn.Conv2d for i in (1, 3)}


def weight_holders(adapter: nn.Module) -> dict[str, nn.Module]:
    """The module that has each weight of an adapter as an attribute, by the published name of the weight.

    Raises:
        ValueError: a part is missing or of another kind.
    """
    conv: Any = getattr(adapter, "adapter_conv", None)
    parts = _PARTS | _ESTIMATOR if hasattr(conv, "noise_estimator") else _PARTS
    holders: dict[str, nn.Module] = {"gamma": adapter, "gammax": adapter}
    for name, kind in parts.items():
        part: Any = adapter
        for child in name.split("."):
            part = getattr(part, child, None)
        if not isinstance(part, kind):
            raise ValueError(
                f"expected an adapter with the published parts, and the {name} of this one is a {type(part).__name__}, "
                f"not a {kind.__name__}; if another library put it there, merge its weights first"
            )
        holders[f"{name}.weight"] = holders[f"{name}.bias"] = part
    if hasattr(conv, "freq_filter"):
        holders["adapter_conv.freq_filter"] = conv
    if hasattr(conv, "spectral"):
        holders["adapter_conv.spectral.mask"] = conv.spectral
    return holders


def compute_weights(modules: Iterable[nn.Module]) -> None:
    """Compute the weights that hooks of torch's utilities compute before each call of a module, without the call."""
    for module in modules:
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WEIGHT_HOOKS):
                hook(module, ())


def adapter_weights(adapter: nn.Module) -> dict[str, Tensor]:
    """The weights of an adapter by their published names, each as its module would compute with it now.

    Raises:
        ValueError: a part or a weight is missing, or a part is of another kind.
    """
    holders = weight_holders(adapter)
    compute_weights(dict.fromkeys(holders.values()))
    weights: dict[str, Any] = {name: getattr(module, name.rpartition(".")[2]) for name, module in holders.items()}
    for name, weight in weights.items():
        if weight is None:
            raise ValueError(f"expected an adapter with the published weights, and this one has no '{name}'")
    return weights


class FoldParts(NamedTuple):
    """The published weights that folding combines with each other; ``HT_FOLD_PARTS`` is the same list for C.

    Shapes are the published ones; ``hidden_weight`` and ``projector`` have two further dimensions of size 1.
    """

    down_weight: Tensor  # (C, D)
    down_bias: Tensor  # (C,)
    norm_weight: Tensor  # (D,)
    norm_bias: Tensor  # (D,)
    gamma: Tensor  # (D,)
    gain: Tensor | None  # by what the filter multiplies the mean of a channel: (C,), or (1,) of a shared mask
    kernel3: Tensor  # (C, 1, 3, 3)
    kernel5: Tensor  # (C, 1, 5, 5)
    kernel7: Tensor  # (C, 1, 7, 7)
    bias3: Tensor  # (C,)
    bias5: Tensor  # (C,)
    bias7: Tensor  # (C,)
    hidden_weight: Tensor | None  # (C // 4, C, 1, 1), None without a noise estimator
    projector: Tensor  # (C, C, 1, 1)


class FoldResults(NamedTuple):
    """The folded weights that come of :class:`FoldParts`: fields of :class:`FoldedAdapter`, which has their shapes.

    ``HT_FOLD_RESULTS`` is the same list for C.
    """

    norm_gain: Tensor
    down_bias: Tensor
    scale_kernels: Tensor
    scale_bias: Tensor
    hidden_weight: Tensor | None
    mix_weight: Tensor


def combine(parts: FoldParts, masked: bool) -> tuple[Tensor, FoldResults]:
    """Combine the weights (identities 1 to 4).

    Args:
        parts: the weights, in float32 or float64.
        masked: a spectral filter stands before the convolutions. Then they take neither the gain nor the residual.

    Returns:
        ``down_weight`` as it is, and what comes of the others.
    """
    kernels = merge_scales(parts[6:9], None if masked else parts.gain, residual=not masked)  # type: ignore[arg-type]
    bias = torch.stack([parts.bias3, parts.bias5, parts.bias7])
    hidden = parts.hidden_weight
    if hidden is None:  # the scale weights are equal for every image, so one kernel serves all
        kernels, bias = kernels.mean(0, keepdim=True), bias.mean(0, keepdim=True)
    else:
        hidden = hidden.flatten(1) if parts.gain is None else hidden.flatten(1) * parts.gain
    shift = (parts.down_weight * (parts.norm_bias * parts.gamma)).sum(1)  # autocast would round a product of matrices
    return parts.down_weight, FoldResults(
        norm_gain=parts.norm_weight * parts.gamma,
        down_bias=parts.down_bias + shift,
        scale_kernels=kernels,
        scale_bias=bias,
        hidden_weight=hidden,
        mix_weight=add_residual(parts.projector.flatten(1)),
    )


class Unfolded(NamedTuple):
    """The weights of an adapter before folding."""

    parts: FoldParts
    others: dict[str, Tensor | None]  # those that are folded weights already, by their field of FoldedAdapter


def unfolded(weights: Mapping[str, Tensor]) -> Unfolded:
    """Sort the weights of an adapter, which come by their published names; see :func:`adapter_weights`."""
    p = {name: at_least_float32(t) for name, t in weights.items()}
    mask = p.get("adapter_conv.spectral.mask")
    gain = p.get("adapter_conv.freq_filter")  # mean(F) = a * mean(S)
    if mask is not None:  # mean(F) = Re(mask at frequency zero) * mean(S)
        gain = (mask[:, 0] if mask.dim() == 2 else mask[:, 0, 0, 0]).contiguous()
    parts = FoldParts(
        down_weight=p["project1.weight"],
        down_bias=p["project1.bias"],
        norm_weight=p["norm.weight"],
        norm_bias=p["norm.bias"],
        gamma=p["gamma"],
        gain=gain,
        kernel3=p["adapter_conv.conv1.weight"],
        kernel5=p["adapter_conv.conv2.weight"],
        kernel7=p["adapter_conv.conv3.weight"],
        bias3=p["adapter_conv.conv1.bias"],
        bias5=p["adapter_conv.conv2.bias"],
        bias7=p["adapter_conv.conv3.bias"],
        hidden_weight=p.get("adapter_conv.noise_estimator.1.weight"),
        projector=p["adapter_conv.projector.weight"],
    )
    score_weight = p.get("adapter_conv.noise_estimator.3.weight")
    others = {
        "skip_gain": p["gammax"],
        "hidden_bias": p.get("adapter_conv.noise_estimator.1.bias"),
        "score_weight": None if score_weight is None else score_weight.flatten(1),
        "score_bias": p.get("adapter_conv.noise_estimator.3.bias"),
        "mix_bias": p["adapter_conv.projector.bias"],
        "up_weight": p["project2.weight"],
        "up_bias": p["project2.bias"],
        "mask": mask,
    }
    return Unfolded(parts, others)


Combine = Callable[[FoldParts, bool], tuple[Tensor, FoldResults]]


def fold(weights: Unfolded, combine: Combine = combine) -> FoldedAdapter:
    """Fold the weights of an adapter (identities 1 to 5); ``combine`` computes what :func:`combine` does."""
    parts, others = weights
    down_weight, results = combine(parts, others["mask"] is not None)
    return FoldedAdapter(down_weight=down_weight, **others, **results._asdict())  # type: ignore[arg-type]


def fold_adapter(adapter: nn.Module, combine: Combine = combine) -> FoldedAdapter:
    """Fold an adapter (identities 1 to 5): any module whose parts and weights have the published names.

    A weight may be a parameter or computed from others, by pruning, weight normalization or a parametrization of torch.

    Args:
        adapter: the adapter.
        combine: computes what :func:`combine` does.

    Raises:
        ValueError: a part or a weight is missing, or a part is of another kind.
    """
    return fold(unfolded(adapter_weights(adapter)), combine)


def blocks_to_run(feature_layers: Iterable[int]) -> int:
    """The number of blocks to run for a head that reads the blocks ``feature_layers``, counted from 0 (identity 6)."""
    return max(feature_layers) + 1


class FoldedLevel(NamedTuple):
    """The weights of one pyramid level. For a token x, the level computes::

        last_weight @ gelu(hidden_weight @ normalize(reduce_weight @ x + reduce_bias) + hidden_bias)

    ``normalize`` is LayerNorm without affine parameters. ``last_weight`` has K rows if a head is folded in, else R.
    """

    reduce_weight: Tensor  # (R, D)
    reduce_bias: Tensor  # (R,)
    hidden_weight: Tensor  # (R, R)
    hidden_bias: Tensor  # (R,)
    last_weight: Tensor  # (K or R, R)
    eps: float


def fold_pyramid(
    reduces: Iterable[nn.Module], blocks: Iterable[nn.Module], head_weight: Tensor | None, head_bias: Tensor | None
) -> tuple[list[FoldedLevel], Tensor]:
    """Fold a feature pyramid and the linear head after it (identities 7 and 8).

    LayerNorm's affine parameters are folded into the Linear that follows it.

    Args:
        reduces: one Linear(D, R) per level.
        blocks: ``LayerNorm(R), Linear(R, R), GELU, Linear(R, R)`` per level.
        head_weight: the weight (K, R) of the head, which is applied to the sum of the levels; None for no head.
        head_bias: the bias (K,) of the head, or None.

    Returns:
        The levels, and the bias (K or R,) to add once to their sum. It combines the biases of the last Linear of every
        level with the head.
    """
    levels: list[FoldedLevel] = []
    bias: Tensor | None = None if head_bias is None else at_least_float32(head_bias)
    for reduce, block in zip(reduces, blocks, strict=True):
        assert isinstance(reduce, nn.Linear) and isinstance(block, nn.Sequential)
        norm, hidden, last = block[0], block[1], block[3]
        assert isinstance(norm, nn.LayerNorm) and isinstance(hidden, nn.Linear) and isinstance(last, nn.Linear)
        hidden_weight, last_weight = at_least_float32(hidden.weight), at_least_float32(last.weight)
        last_bias = at_least_float32(last.bias)
        if head_weight is not None:
            head = at_least_float32(head_weight)
            last_weight, last_bias = head @ last_weight, head @ last_bias
        bias = last_bias if bias is None else bias + last_bias
        levels.append(
            FoldedLevel(
                reduce_weight=at_least_float32(reduce.weight),
                reduce_bias=at_least_float32(reduce.bias),
                hidden_weight=hidden_weight * at_least_float32(norm.weight),
                hidden_bias=at_least_float32(hidden.bias) + hidden_weight @ at_least_float32(norm.bias),
                last_weight=last_weight,
                eps=norm.eps,
            )
        )
    assert bias is not None, "a feature pyramid has at least one level"
    return levels, bias


def fold_patch_embedding(
    weight: Tensor,
    bias: Tensor | None,
    *,
    gray: bool,
    scale: float = 1 / 255,
    mean: tuple[float, ...] = (0.0, 0.0, 0.0),
    std: tuple[float, ...] = (1.0, 1.0, 1.0),
) -> tuple[Tensor, Tensor]:
    """Fold the normalization of pixels into the patch embedding, which then takes raw pixel values (identity 9).

    ``conv((scale * pixel - mean) / std)`` becomes one convolution of the pixel values. This is exact, because patches
    are not padded.

    Args:
        weight: the weight (D, 3, p, p) of the patch embedding.
        bias: its bias (D,), or None.
        gray: fold the three input channels, which hold the same image, into one.
        scale, mean, std: the normalization to fold; the defaults are the published one, pixel / 255.

    Returns:
        The weight (D, 1 or 3, p, p) and the bias (D,).
    """
    weight = at_least_float32(weight)
    std_t = torch.tensor(std, dtype=weight.dtype, device=weight.device).view(1, -1, 1, 1)
    mean_t = torch.tensor(mean, dtype=weight.dtype, device=weight.device).view(1, -1, 1, 1)
    normalized = weight / std_t
    shift = -(normalized * mean_t).sum((1, 2, 3))
    if bias is not None:
        shift = shift + at_least_float32(bias)
    folded = normalized * scale
    return (folded.sum(1, keepdim=True) if gray else folded), shift
