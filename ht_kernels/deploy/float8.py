"""FP8 after training: the folded model with the matrix products of its blocks in float8_e4m3fn, for a GPU.

Of each block the four products (queries, keys and values; attention's output; both layers of the MLP) multiply FP8 by
FP8 in ``torch._scaled_mm``, with one scale for each tensor. The patch embedding, LayerNorm, attention between its
products, adapters, pyramid, heads and the residual stream stay as they are in a 16-bit model. That is what FP8 is for:
tensor cores of compute capability 8.9 and later multiply it at twice the rate of 16 bits, and blocks are nearly all of
a model's multiplications.

Scales of activations come from calibration frames and do not change afterwards, so nothing waits for the GPU to find a
largest value, and CUDA graphs and torch.compile see fixed tensors. FP8 has an exponent: a channel far larger than the
others moves the scale, and the others keep their three bits of mantissa as long as they are not 7000 times smaller.
Int8 has no such reserve; where no channel stands out, its seven bits are the more exact ones.
"""

from __future__ import annotations

import copy
import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ht_kernels.backends.torch_private import scaled_mm
from ht_kernels.errors import BackendError, InputError, reason
from ht_kernels.log import log

from .calibration import check_count, hashes, why_unlike
from .folded import FoldedHTCLIP
from .folded_block import Block
from .onnx_run import FRAMES_AT_ONCE

FP8 = torch.float8_e4m3fn
LARGEST = 448.0
"""The largest number of :data:`FP8`, which has four bits of exponent, three of mantissa and no infinity:
P. Micikevicius et al., "FP8 formats for deep learning", arXiv 2209.05433, table 1."""
PRODUCTS = ("qkv", "out", "hidden", "last")
"""The matrix products of a block, by their names there."""
MULTIPLE = 16
"""What both widths of a matrix must be a multiple of. The number of rows, tokens of all frames, may be any."""
HEADROOM = 2.0
"""How far a new frame's activations may go beyond the largest of the calibration before they are cut off. It costs one
of the 15 powers of two that FP8 spans, and no bit of the mantissa."""
CAPABILITY = (8, 9)


@functools.cache
def why_not_float8(device: torch.device) -> str | None:
    """Why FP8 products do not run on ``device``, in words; None if they do.

    They run on an NVIDIA GPU of compute capability 8.9 or later, which is torch's own condition, and wherever else
    torch computes one, such as its own CPU code, which is slow and for checks. One is tried, once for each device.
    """
    if device.type == "cuda" and torch.version.hip is None:
        found = torch.cuda.get_device_capability(device)
        if found < CAPABILITY:
            return f"its compute capability is {found[0]}.{found[1]}"
    try:
        ones = torch.ones(MULTIPLE, MULTIPLE, device=device).to(FP8)
        scale = torch.ones((), device=device)
        product = scaled_mm(ones, ones.t(), scale, scale, out_dtype=torch.bfloat16)
        return None if bool((product == MULTIPLE).all()) else "torch's product of ones is wrong there"
    except Exception as error:  # torch raises several kinds where an operator is missing
        return f"torch computes no FP8 product there ({reason(error)})"


@torch.no_grad()
def quantize_fp8(folded: FoldedHTCLIP, frames: Tensor, dtype: torch.dtype = torch.bfloat16) -> FoldedHTCLIP:
    """Return a 16-bit copy of a folded model whose blocks multiply in FP8, calibrated on frames.

    It is used as any folded model, in :class:`~ht_kernels.deploy.GraphRunner` too; it may be moved, not cast.
    :func:`~ht_kernels.deploy.check_folded` compares it with ``folded`` on other frames and refuses one that is too far
    off: call it before you use the model.

    A product of a width that is no multiple of 16 stays in 16 bits, and the log says which. If the model is calibrated
    for distances, their mean is corrected by what rounding adds to the features on average over ``frames``. A warning
    in the log says so if most of the frames are unlike the training images.

    Args:
        folded: a model folded in float32, on the device that is to run the result. It is not changed.
        frames: the frames to calibrate on, (B, C, H, W) uint8, best training images; B is
            :data:`~ht_kernels.deploy.calibration.LEAST` or more. They decide the scales of activations.
        dtype: bfloat16 or float16: what everything else computes in, and the products give.

    Raises:
        TypeError: ``folded`` is not a folded model in float32, or ``dtype`` is another.
        BackendError: FP8 products do not run on the model's device; :func:`why_not_float8` says why.
        InputError: the frames do not fit or are too few, the model's activations are not finite on them, or no product
            has widths that FP8 takes.
    """
    if not isinstance(folded, FoldedHTCLIP):
        raise TypeError(f"folded must be a FoldedHTCLIP, got {type(folded).__name__}: pass ht.fold(model)")
    if folded.position.dtype != torch.float32:
        raise TypeError(f"folded was folded into {folded.position.dtype}: fold in float32, dtype= rounds it")
    if dtype not in (torch.bfloat16, torch.float16):
        raise TypeError(f"dtype must be torch.bfloat16 or torch.float16, got {dtype}")
    device = folded.position.device
    cause = why_not_float8(device)
    if cause is not None:
        raise BackendError(
            f"FP8 products need an NVIDIA GPU of compute capability 8.9 or later, and the model is on {device}: "
            f"{cause}. Move the model to such a GPU, or fold it with dtype=torch.bfloat16"
        )
    folded.check(frames)
    if frames.dtype != torch.uint8:
        raise InputError(f"frames to calibrate on must be uint8, got {frames.dtype}")
    check_count(len(frames), "fp8")
    unlike = why_unlike(folded, frames, "fp8")
    if unlike is not None:
        log.warning("fp8: %s", unlike)
    quantized = copy.deepcopy(folded)
    largest, features = _watch(quantized, frames)
    quantized.round_to(dtype)
    for block, wide, values in zip(_blocks(quantized), _blocks(folded), largest, strict=True):
        for name, value in values.items():
            block.scale(name, Float8Product(*wide.matrix(name), value, dtype))
    quantized.calibrated_on = tuple(hashes(frames))
    if quantized.familiarity is not None:
        quantized.familiarity.mean += _features(quantized, frames) - features
    return quantized


class Float8Product(nn.Module):
    """A matrix product with a bias, in FP8: ``y = (q(x / s) @ q(W / t).T) * s * t + b``, where q rounds to FP8.

    The scales s and t are powers of two, so that a division by them rounds nothing. Values of x beyond the largest of
    FP8 are cut off. Sums are in float32; on a GPU of compute capability 9.0 in its tensor cores' own sums, of 14 bits
    or more, as is usual for inference: one rounding of x to FP8 loses more.

    Args:
        weight: W (N, K), floating point, K and N multiples of 16.
        bias: b (N,), or None.
        largest: the largest absolute value of x that was seen.
        dtype: of y and of the bias in the product.
    """

    weight: Tensor
    bias: Tensor | None
    scale: Tensor
    weight_scale: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None, largest: float, dtype: torch.dtype) -> None:
        super().__init__()
        of_weight = _scale(float(weight.abs().max()))
        self.register_buffer("weight", (weight / of_weight).to(FP8))
        self.register_buffer("bias", None if bias is None else bias.to(dtype))
        self.register_buffer("scale", weight.new_tensor(_scale(HEADROOM * largest), dtype=torch.float32))
        self.register_buffer("weight_scale", weight.new_tensor(of_weight, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Compute y (..., N) of x (..., K), both in the 16-bit dtype of the model."""
        rows = (x.flatten(0, -2) / self.scale).clamp_(-LARGEST, LARGEST).to(FP8)
        # The matrix is column-major, as torch asks for: a transposed view of contiguous rows.
        product = scaled_mm(
            rows, self.weight.t(), self.scale, self.weight_scale, self.bias, out_dtype=x.dtype, use_fast_accum=True
        )
        return product.view(*x.shape[:-1], -1)


class _Watched(nn.Module):
    """A product as it was, which remembers the largest absolute value that it multiplied."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias, self.largest = weight, bias, weight.new_zeros(())

    def forward(self, x: Tensor) -> Tensor:
        self.largest = torch.maximum(self.largest, x.abs().amax())  # a number that is not finite stays
        return F.linear(x, self.weight, self.bias)


def _watch(model: FoldedHTCLIP, frames: Tensor) -> tuple[list[dict[str, float]], Tensor]:
    """The largest input of each product that FP8 can take, by block and name, and what :func:`_features` gives."""
    for i, block in enumerate(_blocks(model)):
        for name in PRODUCTS:
            weight, bias = block.matrix(name)
            if any(width % MULTIPLE for width in weight.shape):
                log.warning(
                    "fp8: product %s of block %d stays in 16 bits: its matrix is %dx%d, expected multiples of %d",
                    *(name, i, *weight.shape, MULTIPLE),
                )
            else:
                block.scaled[name] = _Watched(weight, bias)
    if model.precision != "fp8":
        raise InputError(
            f"no product of this model has widths that are multiples of {MULTIPLE}, which FP8 needs: fold it with "
            "dtype=torch.bfloat16"
        )
    features = _features(model, frames)
    found: list[dict[str, float]] = []
    for i, block in enumerate(_blocks(model)):
        found.append({name: float(watched.largest) for name, watched in block.scaled.items()})  # type: ignore[arg-type]
        block.scaled.clear()
        for name, value in found[-1].items():
            if not math.isfinite(value):
                raise InputError(
                    f"product {name} of block {i} multiplies values that are not finite on the frames to calibrate on, "
                    "so FP8 has no scale for them: check the model's weights"
                )
    return found, features


def _features(model: FoldedHTCLIP, frames: Tensor) -> Tensor:
    """Run the model on frames, and average over them the features that it computes distances from.

    Empty if it gives no distances.
    """
    kept = [torch.empty(0, 0)]
    familiarity = model.familiarity
    if familiarity is not None:
        kept.clear()
        handle = familiarity.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    size = model.grid if model.config.task == "segmentation" else None
    for part in torch.split(frames, FRAMES_AT_ONCE):
        model.compute(part.to(model.position.device), size, familiarity is not None)
    if familiarity is not None:
        handle.remove()
    return torch.cat(kept).mean(0)


def _blocks(model: FoldedHTCLIP) -> list[Block]:
    return [block for block in model.blocks if isinstance(block, Block)]


def _scale(largest: float) -> float:
    """The least power of two that brings ``largest`` down to what FP8 holds, within the range of float16."""
    exponent = math.ceil(math.log2(largest / LARGEST)) if largest else 0
    return 2.0 ** min(max(exponent, -14), 15)
