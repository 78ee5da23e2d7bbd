"""Two hundred steps of training: published and ours follow the same loss, float32, the same seed, dropout off."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.small_towers import small_tower
from ht_kernels import HTCLIP
from ht_kernels.published import PublishedHTCLIP

pytestmark = pytest.mark.usefixtures("one_thread")


def losses(model: nn.Module, images: torch.Tensor, masks: torch.Tensor, steps: int = 200) -> torch.Tensor:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    found = []
    for step in range(steps):
        some = slice(step % 4 * 2, step % 4 * 2 + 2)
        loss = F.cross_entropy(model(images[some]), masks[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.detach())
    return torch.stack(found)


def test_loss_curves_agree() -> None:
    torch.manual_seed(0)
    options = {"bottleneck": 8, "reduce_dim": 16, "feature_layers": (0, 1)}
    model = HTCLIP(small_tower("open_clip").float(), num_classes=2, **options).train()
    published = PublishedHTCLIP.like(model)
    images = torch.rand(8, 3, *model.tower.image_size)
    masks = (images.mean(1) > 0.5 + 0.1 * torch.linspace(-1, 1, images.shape[-1])).long()
    ours, expected = losses(model, images, masks), losses(published, images, masks)
    assert expected[-1] < 0.95 * expected[0], "it learns"
    assert float((ours - expected).abs().max()) <= 1e-3
