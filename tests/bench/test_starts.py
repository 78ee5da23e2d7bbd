"""The benchmark of starts: that a multiplied stream is the same tower, and that table and chart show the runs."""

from __future__ import annotations

import pytest
import timm
import torch

import ht_kernels as ht
from benchmarks import starts
from ht_kernels.files import png_bytes

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_multiplied_stream_computes_the_same() -> None:
    features = []
    for factor in (1.0, 20.0):
        torch.manual_seed(0)
        tower = timm.models.vision_transformer.VisionTransformer(
            img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=0, init_values=0.5
        ).double()
        starts.multiply_stream(tower, factor)
        model = ht.HTCLIP(tower, reduce_dim=8, feature_layers=(0, 2), adapter_layers=()).eval()
        images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        features.append([x.detach() / factor for x in model.features(images)])
    for small, large in zip(*features, strict=True):
        torch.testing.assert_close(small, large, rtol=1e-3, atol=1e-5)
        assert small.abs().max() > 0.1


def test_table_and_chart() -> None:
    curve = {"loss": [2.0, 1.0], "dice": [0.25, 0.75]}
    rows = [{"tower": tower, "start": start, "curve": curve} for tower in starts.FACTORS for start in starts.STARTS]
    assert "| large stream | identity | 2.00 | 1.00 | 0.750 | 0.750 |" in starts.table(rows)
    assert png_bytes(starts.draw(rows)).startswith(b"\x89PNG")
