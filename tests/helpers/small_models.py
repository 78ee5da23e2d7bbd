"""Segmentation and classification models on the small towers, and frames for them."""

from __future__ import annotations

import torch

from helpers.small_towers import small_tower
from ht_kernels import HTCLIP
from ht_kernels.nn import Familiarity
from ht_kernels.nn.familiarity import pooled

LAYERS = (0, 1, 2)


def small_model(tower: str = "timm", task: str = "segmentation", variant: str = "hybrid", **options: object) -> HTCLIP:
    options = {"num_classes": 3, "bottleneck": 8, "reduce_dim": 16, "feature_layers": LAYERS, **options}
    model = HTCLIP(small_tower(tower), task=task, variant=variant, **options)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.dtype == torch.float64, name
            with torch.no_grad():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def gray_frames(model: HTCLIP, batch: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (batch, 1, *model.tower.image_size), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def calibrated(model: HTCLIP) -> HTCLIP:
    """Give a model the familiarity of 40 frames, in the model's own precision."""
    features = pooled(model.features(gray_frames(model, 40) / 255))
    model.familiarity = Familiarity.fit(features[:25], features[25:]).to(features.dtype)
    return model
