"""Memory of a training step of the segmentation model: the head never upsamples the pyramid channels."""

from __future__ import annotations

import pytest
import torch

from helpers.small_towers import small_tower
from ht_kernels import HTCLIP
from ht_kernels.published import PublishedHTCLIP

pytestmark = pytest.mark.usefixtures("one_thread")


def saved_bytes(model: torch.nn.Module, images: torch.Tensor) -> int:
    """Bytes of the tensors that a forward pass saves for backward, parameters apart; shared memory counts once."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}  # holding them keeps addresses from being used again

    def pack(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model(images).sum()
    return sum(storage.nbytes() for storage in saved.values())


def test_segmentation_saves_at_most_60_percent_of_published() -> None:
    model = HTCLIP(small_tower("open_clip").float(), num_classes=2, bottleneck=8, feature_layers=(0, 1, 2)).train()
    images = torch.rand(2, 3, *model.tower.image_size)
    ours, published = saved_bytes(model, images), saved_bytes(PublishedHTCLIP.like(model), images)
    assert ours <= 0.6 * published, (ours, published)
