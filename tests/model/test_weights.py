"""The weights that ship: they load offline, are small, and segment phantoms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ht_kernels as ht
from ht_kernels.train import simulate_examples
from ht_kernels.train.metrics import predict, score, summarize
from ht_kernels.weights import PHANTOM


def test_segments_phantoms_without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was used"))
    assert PHANTOM.stat().st_size <= 16 * 2**20
    model = ht.HTCLIP.from_checkpoint(PHANTOM)
    examples = simulate_examples(20, seed=77)
    before = predict(model, examples, range(20), 10, "cpu")
    assert summarize(score(examples, range(20), before, 2, surfaces=False))["dice"] > 0.8
    model.save(tmp_path / "again.safetensors")  # the trained tower goes with it
    again = ht.HTCLIP.from_checkpoint(tmp_path / "again.safetensors")
    assert torch.equal(predict(again, examples, range(20), 10, "cpu"), before)
