"""Augmentations of 8-bit images: the published ones, and one for ultrasound.

``published`` changes half of the images, drawn at random: first by zero to nine random changes of gray values, then by
zero to four random changes of geometry, which also apply to the mask. The published code calls the former strong and
the latter weak, and applies one of them alone to every image: ``weak`` changes the geometry of all images, and ``gray``
their gray values, which is for captions that name a side, because flipping an image would make them wrong. ``light`` is
``weak`` for half of the images. ``ultrasound`` is described in :mod:`ht_kernels.train.ultrasound`.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode  # type: ignore[import-untyped]
from torchvision.transforms.v2 import functional as F  # type: ignore[import-untyped]

from .ultrasound import vary

_HALF = ("published", "light")
"""The augmentations that leave half of the images as they are."""

_Gray = Callable[[Tensor, random.Random], Tensor]

_GRAY: tuple[_Gray, ...] = (
    lambda image, g: image,
    lambda image, g: F.autocontrast(image),
    lambda image, g: F.equalize(image),
    lambda image, g: F.gaussian_blur(image, [9, 9], [g.uniform(0.75, 1.25)] * 2),
    lambda image, g: F.adjust_contrast(image, g.uniform(0.75, 1.25)),
    lambda image, g: F.adjust_brightness(image, g.uniform(0.75, 1.25)),
    lambda image, g: F.adjust_sharpness(image, g.uniform(0.75, 1.25)),
    lambda image, g: F.posterize(image, g.randint(4, 7)),
    lambda image, g: F.solarize(image, g.randint(1, 255)),
)


def augment(image: Tensor, mask: Tensor | None, kind: str, g: random.Random) -> tuple[Tensor, Tensor | None]:
    """Return an image (1 or 3, S, S) uint8 and its mask (S, S), changed at random by the augmentation named ``kind``.

    :data:`ht_kernels.train.AUGMENTATIONS` lists the kinds. ``g`` supplies all random numbers.
    """
    if kind == "ultrasound":
        return vary(image, mask, g)
    if kind == "none" or (kind in _HALF and g.random() < 0.5):
        return image, mask
    if kind in ("published", "gray"):
        for gray in g.choices(_GRAY, k=g.randint(0, len(_GRAY))):
            image = gray(image, g)
    if kind == "gray":
        return image, mask
    for move in g.choices(("crop", "horizontal", "vertical", "nothing"), k=g.randint(0, 4)):
        if move == "crop":
            image, mask = _crop(image, mask, g)
        elif move != "nothing":
            flip = F.horizontal_flip if move == "horizontal" else F.vertical_flip
            image, mask = flip(image), None if mask is None else flip(mask)
    return image, mask


def _crop(image: Tensor, mask: Tensor | None, g: random.Random) -> tuple[Tensor, Tensor | None]:
    """Crop a random square with 0.8 to 1 times the area of the image, and resize it to the size of the image."""
    size = image.shape[-1]
    side = round(size * g.uniform(0.8, 1.0) ** 0.5)
    box = g.randint(0, size - side), g.randint(0, size - side), side, side
    image = F.resized_crop(image, *box, [size, size], antialias=True)
    if mask is not None:
        mask = F.resized_crop(mask[None], *box, [size, size], interpolation=InterpolationMode.NEAREST)[0]
    return image, mask
