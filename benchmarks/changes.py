"""Test images changed in ways that stand in for other scanners, and the Dice that a model has on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ht_kernels.train import Examples
from ht_kernels.train.metrics import predict, score

from .familiarity import compressed
from .real_data.runs import plain

AS_IT_IS = "as it is"
CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    AS_IT_IS: lambda images: images,
    "darker": lambda images: 0.4 * images,
    "brighter": lambda images: 2 * images,
    "grainier": lambda images: images * (1 + 0.6 * _grains(images)),
    "smaller": lambda images: shrink(images, "bilinear"),
    "JPEG": lambda images: _compressed(images),
}
"""By name, how test images (N, 1, S, S), 0 to 1, are changed. ``smaller`` changes their masks, too."""

_SMALLER = 0.6

_BATCH = 16


def changed(test: Examples, change: str) -> Examples:
    """The examples with images changed, and their masks where the change moves what they show."""
    images = (255 * CHANGES[change](test.images / 255).clamp(0, 1)).round().to(torch.uint8)
    if change != "smaller":
        return replace(test, images=images)
    masks = shrink(test.targets[:, None].float(), "nearest-exact")[:, 0].to(torch.uint8)
    return replace(test, images=images, targets=masks)


def shrink(images: Tensor, mode: str) -> Tensor:
    """Images (N, 1, S, S), made smaller, in the middle of black ones of their size."""
    size = images.shape[-1]
    side = round(_SMALLER * size)
    before = (size - side) // 2
    smaller = F.interpolate(images, (side, side), mode=mode, antialias=mode == "bilinear")
    return F.pad(smaller, 2 * [before, size - side - before])


def _grains(images: Tensor) -> Tensor:
    """Normal noise, the same for every call, whose grains are about two pixels wide."""
    count, _, height, width = images.shape
    noise = torch.randn(count, 1, -(-height // 2), -(-width // 2), generator=torch.Generator().manual_seed(0))
    return F.interpolate(noise, (height, width), mode="bilinear")


def _compressed(images: Tensor) -> Tensor:
    return torch.stack([compressed(image) for image in (255 * images).round().to(torch.uint8)]) / 255


def dice(model: Any, examples: Examples) -> list[float | None]:
    """Dice of each image, None where there is no lesion."""
    indices = range(len(examples))
    rows = score(examples, indices, predict(model, examples, indices, _BATCH, "cpu"), 2, surfaces=False)
    return [plain(row["dice"]) for row in rows]


def dice_by_change(model: Any, test: Examples) -> dict[str, list[float | None]]:
    """By change, the Dice of each image."""
    return {name: dice(model, changed(test, name)) for name in CHANGES}
