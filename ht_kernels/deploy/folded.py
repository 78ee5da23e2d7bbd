"""The inference model: an HTCLIP with every identity of :mod:`ht_kernels.folding` applied.

The folded model holds buffers only and shares no memory with the HTCLIP. It takes raw pixels, and it leaves out the
blocks whose output the task does not use.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from ht_kernels.arguments import pair
from ht_kernels.backends.call import Case
from ht_kernels.classes import classes_of
from ht_kernels.clip.htclip import HTCLIP
from ht_kernels.clip.injection import adapters
from ht_kernels.distance_scale import NOT_CALIBRATED
from ht_kernels.errors import InputError
from ht_kernels.folding import (
    at_least_float32,
    cast_matrices,
    fold_adapter,
    fold_patch_embedding,
    fold_pyramid,
    on_grid,
)
from ht_kernels.functional import feature_pyramid, ht_adapter, ht_adapter_and_norm
from ht_kernels.media.preprocess import RESIZING
from ht_kernels.nn.familiarity import pool
from ht_kernels.nn.heads import upsample
from ht_kernels.ops.dispatch import asked_for, choose
from ht_kernels.predict_method import Predicts

from .block_parts import is_layer_norm, read_block
from .folded_block import Block, Norm
from .pooled import Pooled

_TOO_BRIGHT = 16.0
"""A pixel of frames in [0, 1] is never so large, also where they were resized or normalized; one of 0 to 255 is."""

_PRECISIONS = {torch.float64: "fp64", torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


class FoldedHTCLIP(Predicts, nn.Module):
    """An HTCLIP for inference; :func:`fold` makes it.

    ``model(frames, output_size=None)`` takes frames of ``image_size``, gray (B, 1, H, W) or RGB (B, 3, H, W): uint8
    with values 0 to 255, or floating point with values in [0, 1], as the HTCLIP does. For segmentation it returns
    logits (B, K, *output_size), where None means ``image_size``, and ``output_size=model.grid`` gives them on the patch
    grid as they are, for :func:`ht_kernels.functional.grid_to_mask`; for classification logits (B, K); for a
    contrastive model the embeddings (B, E) of the images, of unit length. Results are float32 (float64 for a float64
    model).

    Buffers may be written in place, loaded or moved. Adapters keep a prepared copy of their weights, and do not notice
    a write through ``buffer.data`` or NumPy; a captured CUDA graph prepares them at every replay, and does.

    Attributes:
        config: the configuration of the HTCLIP.
        image_size: (height, width) of the frames.
        grid: patch grid (H, W).
        result: the kind of result: ``logits`` or ``embeddings``.
        width: the number of values of the result: K or E.
        resizing: how an image is resized to a frame, in words.
        pixel_mean, pixel_std: mean and standard deviation by channel, of pixels in [0, 1], with which the model
            normalizes its frames; 0 and 1 if it does not normalize them.
        familiarity: that of the HTCLIP, or None: how far frames are from the training images.
        calibrated_on: the hashes of the frames that :func:`ht_kernels.deploy.quantize_fp8` calibrated the model on;
            empty for a model without FP8.
    """

    position: Tensor
    patch_weight: Tensor
    gray_patch_weight: Tensor
    pyramid_bias: Tensor

    def __init__(self, model: HTCLIP, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        unfoldable = why_not_folded(model)
        if unfoldable:
            raise InputError(unfoldable)
        tower = model.tower
        self.config = model.config
        self.image_size, self.grid, self.prefix_tokens = tower.image_size, tower.grid, tower.prefix_tokens
        depth, task = model.depth, self.config.task

        embedding = tower.patch_embedding
        self.result, self.width = "logits", self.config.num_classes
        height, width = self.image_size
        self.resizing = f"resized to {height}x{width} ({RESIZING})"
        self.pixel_mean, self.pixel_std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        if task == "contrastive":
            self.resizing = model.resizing
            self.pixel_mean, self.pixel_std = (tuple(t.tolist()) for t in (model.pixel_mean, model.pixel_std))
        scaled: dict[str, Any] = {"mean": self.pixel_mean, "std": self.pixel_std}
        weight, bias = fold_patch_embedding(embedding.weight, embedding.bias, gray=False, **scaled)
        gray_weight, _ = fold_patch_embedding(embedding.weight, embedding.bias, gray=True, **scaled)
        # tower.place prepends the prefix tokens and adds the position embedding. Called with zero patches, it returns
        # just what it adds.
        position = tower.place(torch.zeros(1, tower.grid[0] * tower.grid[1], tower.dim).to(embedding.weight))
        position = position.to(weight.dtype)
        position[:, tower.prefix_tokens :] += bias
        self.register_buffer("patch_weight", weight.clone())
        self.register_buffer("gray_patch_weight", gray_weight.clone())
        self.register_buffer("position", position)
        self.pre_norm = Norm(tower.pre_norm) if isinstance(tower.pre_norm, nn.LayerNorm) else None
        self.blocks = nn.ModuleList(Block(block) for block in tower.blocks[:depth])
        self.adapters = nn.ModuleDict(
            {str(i): _Adapter(adapter, self.grid) for i, adapter in adapters(tower).items() if i < depth}
        )

        self.levels, self.classifier, self.pooled = nn.ModuleList(), None, None
        self.register_buffer("pyramid_bias", None)
        if task == "contrastive":
            self.pooled = Pooled(model)
            self.result, self.width = "embeddings", self.pooled.weight.shape[0]
        else:
            head = (model.seg_head.weight, model.seg_head.bias) if task == "segmentation" else (None, None)
            levels, pyramid_bias = fold_pyramid(model.reduces, model.blocks, *head)
            self.levels.extend(_Tensors(level) for level in levels)
            self.register_buffer("pyramid_bias", pyramid_bias.clone())
        if task == "classification":
            self.classifier = _fold_classifier(model.cls_head)
        self.familiarity = copy.deepcopy(model.familiarity)
        self.calibrated_on: tuple[str, ...] = ()
        if dtype is not None:
            self.round_to(dtype)
        self.eval()

    def round_to(self, dtype: torch.dtype) -> None:
        """Cast tokens and matrices to ``dtype``, and all other tensors to float32."""
        self.float()
        for name in ("patch_weight", "gray_patch_weight", "position"):
            setattr(self, name, getattr(self, name).to(dtype))
        for module in (self.pre_norm, self.blocks, self.levels):
            if module is not None:
                module.to(dtype)
        for adapter in self.adapters.values():
            assert isinstance(adapter, _Adapter)
            adapter.round_matrices(dtype)

    def forward(self, frames: Tensor, output_size: tuple[int, int] | None = None) -> Tensor:
        """Compute the logits or embeddings of frames, as the class describes.

        Raises:
            InputError: ``frames`` has a wrong shape, is empty, or has a value that is not finite or, in floating point,
                far above 1.
            TypeError: ``frames`` is neither uint8 nor floating point.
            ValueError: ``frames`` is on another device, or ``output_size`` is given for a task other than segmentation.
        """
        (result,) = self._checked(frames, output_size, distance=False)
        return result

    def with_distance(self, frames: Tensor, output_size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
        """Compute the logits and the distances (B,) of frames from the training images, in one pass.

        ``familiarity.scale`` says which distances are usual. They are float32 (float64 for a float64 model).

        Raises:
            InputError, TypeError, ValueError: as for :meth:`forward`; InputError also if ``familiarity`` is None.
        """
        result, distances = self._checked(frames, output_size, distance=True)
        return result, distances

    def _checked(self, frames: Tensor, output_size: tuple[int, int] | None, distance: bool) -> tuple[Tensor, ...]:
        if isinstance(frames, Tensor) and frames.device != self.position.device:
            raise ValueError(f"frames is on {frames.device}, but the model is on {self.position.device}")
        self.check(frames, output_size, distance)
        return self.compute(frames, output_size, distance)

    def compute(
        self, frames: Tensor, output_size: tuple[int, int] | None = None, distance: bool = False
    ) -> tuple[Tensor, ...]:
        """Compute the result, and with ``distance`` the distances, of frames that :meth:`check` has accepted.

        Nothing here waits for a GPU.
        """
        x, prefix = self.embed(frames), self.prefix_tokens
        scores, mean, feature = self.pyramid_bias, self.classifier is not None, 0
        pooled: list[Tensor] = []
        normed: Tensor | None = None
        for i, block in enumerate(self.blocks):
            x = block(x.contiguous(), normed)
            normed = None
            if str(i) in self.adapters:
                following = self.blocks[i + 1] if i + 1 < len(self.blocks) else None
                x, normed = self.adapters[str(i)](x, self.grid, prefix, following)
            if i in self.config.feature_layers:
                level = self.levels[feature].values()  # type: ignore[operator]
                scores = feature_pyramid([x[:, prefix:]], [level], scores, pool=mean)
                feature += 1
                if distance:
                    pooled.append(pool(x[:, prefix:]))
        result = self._result(x, scores, output_size)
        if not distance:
            return (result,)
        assert self.familiarity is not None, "check refuses such a call"
        return result, self.familiarity(torch.cat(pooled, 1))

    def _result(self, x: Tensor, scores: Tensor, output_size: tuple[int, int] | None) -> Tensor:
        """The logits from the pyramid's scores, or the embeddings from the tokens after the last block."""
        if self.pooled is not None:
            embeddings: Tensor = self.pooled(x)
            return embeddings
        if self.classifier is None:
            return upsample(scores, self.grid, output_size or self.image_size)
        logits: Tensor = self.classifier(scores)
        return logits

    @property
    def precision(self) -> str:
        """That of the products of blocks: ``fp64``, ``fp32``, ``fp16`` or ``bf16``, or ``fp8`` if any of them is."""
        if any(len(block.scaled) for block in self.blocks):  # type: ignore[arg-type]
            return "fp8"
        return _PRECISIONS[self.position.dtype]

    def backend(self) -> str | None:
        """The name of the backend that runs the adapters, or None if the model has no adapters.

        Raises:
            BackendError: the backend that the user named cannot run them.
        """
        for adapter in self.adapters.values():
            folded = adapter.values()  # type: ignore[operator]
            dim, bottleneck = folded.up_weight.shape
            spectral = folded.mask is not None
            where = self.position.device, self.position.dtype
            case = Case(*where, dim, bottleneck, self.grid, self.prefix_tokens, needs_grad=False, spectral=spectral)
            return choose(case, asked_for())
        return None

    def embed(self, frames: Tensor) -> Tensor:
        """Turn frames into the tokens (B, N, D) that the first block takes."""
        weight = self.gray_patch_weight if frames.shape[1] == 1 else self.patch_weight
        batch, (height, width) = frames.shape[0], weight.shape[-2:]
        # Patches do not overlap, so the convolution is a matrix product, which adds to the positions on its way.
        patches = frames.unfold(2, height, height).unfold(3, width, width).permute(0, 2, 3, 1, 4, 5)
        if frames.is_floating_point():
            patches = patches.to(torch.promote_types(frames.dtype, weight.dtype)) * 255
        pixels = patches.to(weight.dtype, memory_format=torch.contiguous_format).flatten(3).flatten(1, 2)
        x = self.position.repeat(batch, 1, 1)
        x[:, self.prefix_tokens :].baddbmm_(pixels, weight.flatten(1).t().expand(batch, -1, -1))
        return x if self.pre_norm is None else self.pre_norm(x)

    @staticmethod
    def classes(logits: Tensor) -> Tensor:
        """The class of each pixel or frame; :func:`ht_kernels.classes.classes_of` says which."""
        return classes_of(logits)

    def check(self, frames: Tensor, output_size: tuple[int, int] | None = None, distance: bool = False) -> None:
        """Raise what :meth:`forward`, or with ``distance`` :meth:`with_distance`, raises for wrong arguments.

        The device is not checked.
        """
        if distance and self.familiarity is None:
            raise InputError(NOT_CALIBRATED)
        if output_size is not None and self.config.task != "segmentation":
            raise ValueError(f"output_size goes with segmentation, got {output_size} for {self.config.task}")
        sides = None if output_size is None else pair(output_size)
        if output_size is not None and (sides is None or min(sides) < 1):
            raise ValueError(f"output_size must be (height, width), two whole numbers from 1 on, got {output_size!r}")
        if not isinstance(frames, Tensor):
            raise TypeError(
                f"frames must be a tensor, got {type(frames).__name__}: torch.from_numpy makes one of an array"
            )
        height, width = self.image_size
        if frames.dim() != 4 or frames.shape[1] not in (1, 3) or frames.shape[2:] != (height, width):
            raise InputError(f"frames must have shape (B, 1 or 3, {height}, {width}), got {tuple(frames.shape)}")
        if frames.shape[0] == 0:
            raise InputError("frames is empty; pass at least one frame")
        if frames.dtype == torch.uint8:
            return
        if not frames.is_floating_point():
            raise TypeError(f"frames must be uint8 or floating point, got {frames.dtype}")
        # torch.compile and torch.export cannot keep a check that depends on values.
        if torch.compiler.is_compiling():
            return
        low, high = torch.stack(frames.detach().aminmax()).tolist()
        if not (math.isfinite(low) and math.isfinite(high)):
            raise InputError("frames has values that are not finite (NaN or infinity)")
        if high > _TOO_BRIGHT:
            raise InputError(
                f"frames has values up to {high:g}, expected 0 to 1 in floating point: divide by 255, or pass them as "
                "uint8"
            )


@torch.no_grad()
def fold(model: HTCLIP, dtype: torch.dtype | None = None) -> FoldedHTCLIP:
    """Return the inference model of an HTCLIP, which equals it in exact arithmetic.

    ``model`` is not changed. The folded model computes in float32, or in float64 if ``model`` is float64.

    Args:
        model: the model to fold.
        dtype: float16 or bfloat16, for a GPU. Tokens and matrices are rounded to ``dtype`` after folding. The sums in
            matrix products, LayerNorm's statistics, the softmax, the noise estimator and the logits stay in float32.

    Raises:
        TypeError: ``model`` is not an HTCLIP, or ``dtype`` is not float16, bfloat16 or None.
        InputError: the tower cannot be folded; the message is that of :func:`why_not_folded`.
    """
    if not isinstance(model, HTCLIP):
        raise TypeError(f"model must be an HTCLIP, got {type(model).__name__}")
    if dtype not in (None, torch.float16, torch.bfloat16):
        raise TypeError(f"dtype must be torch.float16, torch.bfloat16 or None, got {dtype}")
    return FoldedHTCLIP(model, dtype)


def why_not_folded(model: HTCLIP) -> str | None:
    """Why :func:`fold` refuses a model, in a sentence; None if it takes it."""
    tower = model.tower
    if not (isinstance(tower.pre_norm, nn.Identity) or is_layer_norm(tower.pre_norm)):
        return f"the tower starts with a {type(tower.pre_norm).__name__}, expected LayerNorm or nothing"
    for i, block in enumerate(tower.blocks[: model.depth]):
        if read_block(block) is None:
            return (
                f"block {i} of the tower ({type(block).__name__}) cannot be folded: expected LayerNorm, multi-head "
                "attention, LayerNorm and an MLP of two layers, without other norms than those of queries and keys"
            )
    if model.config.task == "contrastive":
        try:
            Pooled(model)
        except InputError as error:
            return str(error)
    return None


class _Tensors(nn.Module):
    """A named tuple of tensors and numbers, with the tensors registered as buffers."""

    def __init__(self, values: Any) -> None:
        super().__init__()
        self.kind = type(values)
        self.kept: Any = None
        for name, value in values._asdict().items():
            if value is None or isinstance(value, Tensor):
                self.register_buffer(name, None if value is None else value.detach().clone())
            else:
                setattr(self, name, value)

    def values(self) -> Any:
        """The named tuple; cached, because looking up 15 buffers takes as long as launching an adapter on a GPU."""
        if torch.compiler.is_compiling():
            return self.kind(*(getattr(self, name) for name in self.kind._fields))
        kept = self.kept  # read once: another thread may set it to None
        # load_state_dict(assign=True) replaces buffers.
        if kept is None or any(getattr(kept, name) is not t for name, t in self._buffers.items()):
            kept = self.kept = self.kind(*(getattr(self, name) for name in self.kind._fields))
        return kept

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.kept = None
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


class _Adapter(_Tensors):
    def __init__(self, adapter: Any, grid: tuple[int, int]) -> None:
        super().__init__(on_grid(fold_adapter(adapter), grid))
        self.eps = float(adapter.norm.eps)

    def round_matrices(self, dtype: torch.dtype) -> None:
        """Cast the three matrices to ``dtype`` once, so that no call has to cast them on the GPU."""
        for name, tensor in cast_matrices(self.values(), dtype)._asdict().items():
            setattr(self, name, tensor)
        self.kept = None

    def forward(
        self, x: Tensor, grid: tuple[int, int], prefix_tokens: int, following: Block | None
    ) -> tuple[Tensor, Tensor | None]:
        """The adapter's result, and what the block behind it takes beside; None without such a block."""
        if following is None:
            return ht_adapter(x, self.values(), grid, prefix_tokens, eps=self.eps), None
        return ht_adapter_and_norm(x, self.values(), grid, prefix_tokens, eps=self.eps, norm_eps=following.eps[0])


def _fold_classifier(head: nn.Sequential) -> nn.Sequential:
    """A copy of a classification head without dropout and with its parameters as buffers."""
    layers = copy.deepcopy([layer for layer in head if isinstance(layer, nn.Linear | nn.ReLU)])
    for layer in layers:
        for name, parameter in list(layer.named_parameters()):
            delattr(layer, name)
            layer.register_buffer(name, at_least_float32(parameter.detach()))
    return nn.Sequential(*layers)
