"""Whole task models of the published code, computed by the identities: the forward that ``accelerate`` gives them.

A published task model runs every block of its tower, also those behind the last one that it reads, and upsamples all
channels of its pyramid before the 1x1 convolution. The identities 6 to 8 leave that out, in training too, and the
result is the same up to rounding.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import NoneType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ht_kernels.errors import InputError, reason
from ht_kernels.folding import blocks_to_run, compute_weights, fold_pyramid
from ht_kernels.functional import feature_pyramid
from ht_kernels.nn import ClassificationHead, SegmentationHead
from ht_kernels.nn.heads import upsample
from ht_kernels.nn.inside import Uncalled

from .adapted_block import owner
from .in_place import Changed, change, quiet, relative_error, replaced_method, replaces_method, seed
from .injection import adapt_output
from .towers import Tower, find_tower

_HEADS = {"seg_head": "segmentation", "cls_head": "classification"}
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""The allowed relative L2 error of the logits by dtype; in lower precision, in which both round, 5e-2."""


class Plan(NamedTuple):
    """What :class:`TaskModel` computes.

    Attributes:
        clip: the name of the child that has the vision tower.
        layers: the blocks that the pyramid reads.
        head: ``seg_head`` or ``cls_head``.
        argument: the name of the images in the model's own forward.
        settings: the model's attributes that are plain values, such as ``task``, when it was accelerated.
    """

    clip: str
    layers: tuple[int, ...]
    head: str
    argument: str
    settings: dict[str, Any]


class Whole(NamedTuple):
    """A task model that :func:`ht_kernels.accelerate` changed: its name, and how many of its blocks are run."""

    name: str
    task: str
    run: int
    blocks: int


class TaskModel(Changed):
    """A published task model after :func:`ht_kernels.accelerate`: its own class, with this forward before its own.

    The parameters stay where they were. Modules that the identities make superfluous are not called: the blocks behind
    the last one that is read, the final norm, and the parts of pyramid and head. A call goes the published way if one
    of them has hooks or is no longer what the published code makes, if there are hooks for all modules, if an attribute
    of the model that is a plain value has changed, or if it is not a call with images of the tower's size alone.
    """

    ht_plan: Plan
    of_this_model = ("_ht_parts",)

    def forward(self, *args: Any, **options: Any) -> Any:
        """Return the logits of images (B, 3, H, W): (B, K, H, W) for segmentation, (B, K) for classification."""
        plan = self.ht_plan
        given = [*args, *options.values()]
        parts = _parts(self, plan) if len(given) == 1 and (args or plan.argument in options) else "other arguments"
        if isinstance(parts, str) or not _fits(given[0], parts.tower):
            return super().forward(*args, **options)
        return _logits(parts, given[0])


class _Parts(NamedTuple):
    plan: Plan
    tower: Tower
    reduces: list[nn.Linear]
    blocks: list[nn.Sequential]
    head: nn.Sequential
    uncalled: Uncalled


def take(model: nn.Module, name: str) -> Whole | str | None:
    """Give a task model the forward of :class:`TaskModel`, in place.

    Before that, both are compared on random images: one in evaluation mode, and two with large values in both modes.

    Returns:
        What is run now; a string that says why the model stays as it is; or None if it is not a task model.
    """
    heads = [head for name in _HEADS if (head := model._modules.get(name)) is not None]
    if not heads or isinstance(heads[0], (SegmentationHead, ClassificationHead)) or not _has_pyramid(model):
        return None
    if isinstance(model, TaskModel):
        return "it is accelerated already"
    replaced = replaced_method(model)
    if replaced is not None:
        return f"its {replaced} was replaced, so what it computes is not known"
    if isinstance(model, torch.jit.ScriptModule):
        return "it is a TorchScript module"
    if any(p.is_meta for p in model.parameters()):
        return "its parameters have no values yet (device meta)"
    reasons: list[str] = []
    for plan in _plans(model):
        parts = _parts(model, plan)
        if isinstance(parts, str):
            reasons.append(parts)
            continue
        try:
            agree = _agree(model, parts)
        except Exception as error:
            reasons.append(f"it could not be tried out ({type(error).__name__}: {reason(error)})")
            continue
        if agree:
            vars(model)["ht_plan"] = plan
            change(model, TaskModel)
            return Whole(name, _HEADS[plan.head], blocks_to_run(plan.layers), len(parts.tower.blocks))
        reasons.append(f"its logits are not those of its pyramid and its {plan.head}")
    return "; ".join(dict.fromkeys(reasons)) or "no vision tower, or no list of the blocks that are read, was found"


def _plans(model: Any) -> Iterator[Plan]:
    """The ways in which a model may compute: for each child with a tower, list of layers, and head."""
    levels, settings = len(model.reduces), _settings(model)
    argument = next(iter(inspect.signature(model.forward).parameters), "")
    lists = [tuple(value) for value in settings.values() if isinstance(value, list) and len(value) == levels]
    for clip, child in model.named_children():
        try:
            tower = find_tower(child)
        except InputError:
            continue
        for read in dict.fromkeys(lists):
            if list(read) == sorted(set(read)) and read[0] >= 0 and read[-1] < len(tower.blocks):
                for head in _HEADS:
                    if head in model._modules:
                        yield Plan(clip, read, head, argument, settings)


def _settings(model: nn.Module) -> dict[str, Any]:
    """The attributes of a model that are plain values, or lists of whole numbers, but for its mode.

    Functions that replace methods which its forward may call are among them.
    """
    found: dict[str, Any] = {}
    for name, value in vars(model).items():
        numbers = isinstance(value, (list, tuple)) and all(type(i) is int for i in value)
        if numbers or (isinstance(value, (bool, int, float, str, NoneType)) and name[0] != "_" and name != "training"):
            found[name] = list(value) if numbers else value
        elif name != "forward" and replaces_method(model, name, value):
            found[name] = value
    return found


def _fits(images: Any, tower: Tower) -> bool:
    """Whether images are a tensor (B, C, H, W) as the tower takes them."""
    channels = tower.patch_embedding.in_channels
    return isinstance(images, Tensor) and images.dim() == 4 and images.shape[1:] == (channels, *tower.image_size)


def _parts(model: Any, plan: Plan) -> _Parts | str:
    """The parts of a model, or the reason why it cannot be computed by the identities now.

    A :class:`TaskModel` keeps its parts, which are looked for again when a module was replaced.
    """
    if _settings(model) != plan.settings:
        return "its attributes have changed"
    keeps = isinstance(model, TaskModel) and not torch.compiler.is_compiling()
    parts: _Parts | None = vars(model).get("_ht_parts") if keeps else None
    if parts is None or parts.plan is not plan or not parts.uncalled.is_current():
        try:
            parts = _find(model, plan)
        except InputError as error:
            return str(error)
        if keeps:
            vars(model)["_ht_parts"] = parts
    observed = parts.uncalled.observed()
    if observed is not None:
        return f"a {type(observed).__name__} that is no longer called has hooks or a replaced forward"
    return _differs(parts) or parts


def _find(model: Any, plan: Plan) -> _Parts:
    """Find the parts of a model.

    Raises:
        InputError: its vision tower is not a plain vision transformer.
    """
    tower = find_tower(getattr(model, plan.clip))
    reduces, blocks, head = list(model.reduces), list(model.blocks), getattr(model, plan.head)
    dead = tower.blocks[blocks_to_run(plan.layers) :]
    around = [part for part in tower.visual.children() if not hasattr(part, "resblocks") and part is not tower.blocks]
    uncalled = [*reduces, *blocks, head if plan.head == "seg_head" else nn.ModuleList(head[:2]), *around, *dead]
    tied = [vars(block)["forward"] for block in dead if owner(vars(block).get("forward")) is not None]
    inside = dict.fromkeys(module for part in uncalled for module in part.modules())
    of_tower = set(tower.blocks)
    places = [name.split(".") for name, module in model.named_modules() if module in of_tower]
    above = {".".join(place[:i]): None for place in places for i in range(len(place))}
    holders = [*map(model.get_submodule, above), model.reduces, model.blocks, head]
    return _Parts(plan, tower, reduces, blocks, head, Uncalled(inside, holders, [adapt_output, *tied]))


def _differs(parts: _Parts) -> str | None:
    """The reason why the pyramid and the head of a model are not those of published code; None if they are."""
    for reduce, block in zip(parts.reduces, parts.blocks, strict=True):
        like_published = type(reduce) is nn.Linear and _is(block, nn.LayerNorm, nn.Linear, nn.GELU, nn.Linear)
        if not like_published or block[2].approximate != "none":
            return "its pyramid is not Linear, and LayerNorm, Linear, GELU, Linear, for each level"
        if any(t is None for t in (reduce.bias, block[0].weight, block[0].bias, block[1].bias, block[3].bias)):
            return "its pyramid has a part without a bias or weight"
    head: Any = parts.head
    if parts.plan.head == "seg_head":
        if not _is(head, nn.Upsample, nn.Conv2d) or not _upsamples_and_maps(*head):
            return "its seg_head is not a bilinear Upsample and a 1x1 Conv2d"
    elif not isinstance(head, nn.Sequential) or not _is(head[:2], nn.AdaptiveAvgPool2d, nn.Flatten):
        return "its cls_head does not start with AdaptiveAvgPool2d and Flatten"
    return None


def _logits(parts: _Parts, images: Tensor) -> Tensor:
    plan, tower = parts.plan, parts.tower
    head: Any = parts.head
    folded = [*parts.reduces, *parts.blocks, *([head] if plan.head == "seg_head" else [])]
    compute_weights(module for part in folded for module in part.modules())
    x = tower.embed(images)
    features = []
    for i in range(blocks_to_run(plan.layers)):
        x = tower.blocks[i](x)
        if i in plan.layers:
            features.append(tower.patches(x))
    device = images.device.type
    cast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    like = torch.get_autocast_dtype(device) if cast else parts.reduces[0].weight.dtype
    if plan.head == "seg_head":
        size, weight, bias = head[0].size, head[1].weight.flatten(1), head[1].bias
        scores = feature_pyramid(features, *fold_pyramid(parts.reduces, parts.blocks, weight, bias))
        return upsample(scores, tower.grid, size if isinstance(size, tuple) else (size, size)).to(like)
    pooled = feature_pyramid(features, *fold_pyramid(parts.reduces, parts.blocks, None, None), pool=True)
    logits: Tensor = head[2:](pooled.to(parts.reduces[0].weight.dtype))
    return logits


def _agree(model: Any, parts: _Parts) -> bool:
    """Whether both ways give the same logits: of one image in evaluation, and of two with large values in both modes.

    A forward that looks at its input, to scale bytes for example, differs in one of these. Dropout is off, and other
    random numbers are the same for both.
    """
    like = parts.tower.patch_embedding.weight
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, like.shape[1], *parts.tower.image_size, generator=generator).to(like.device, like.dtype)
    large = torch.cat([255 * image, 3 * image - 1.5])
    for images, training in (image, False), (large, False), (large, True):
        with quiet(model, training), torch.no_grad():
            seed(like.device)
            expected = type(model).forward(model, images)
            seed(like.device)
            got = _logits(parts, images)
        tolerance = _TOLERANCE.get(like.dtype, 5e-2)
        if got.dtype != getattr(expected, "dtype", None) or not relative_error(expected, got) <= tolerance:
            return False
    return True


def _upsamples_and_maps(upsample: Any, convolution: Any) -> bool:
    """Whether a module upsamples to a size bilinearly as published, and the other is a 1x1 convolution without more."""
    bilinear = upsample.mode == "bilinear" and not upsample.align_corners and upsample.size is not None
    shape = convolution.kernel_size, convolution.stride, convolution.padding, convolution.groups
    return bilinear and shape == ((1, 1), (1, 1), (0, 0), 1)


def _has_pyramid(model: nn.Module) -> bool:
    reduces, blocks = (model._modules.get(name) for name in ("reduces", "blocks"))
    return isinstance(reduces, nn.ModuleList) and isinstance(blocks, nn.ModuleList) and 0 < len(reduces) == len(blocks)


def _is(module: Any, *kinds: type[nn.Module]) -> bool:
    """Whether a module is a Sequential of modules of exactly these classes."""
    return isinstance(module, nn.Sequential) and [type(part) for part in module] == list(kinds)
