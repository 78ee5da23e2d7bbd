"""A CUDA backend whose kernels do nothing, on CPU tensors. Only the Python code of a call is left to time."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ht_kernels.backends import core, cpu, cuda, torch_private
from ht_kernels.folding import FoldedAdapter


def replace(monkeypatch: pytest.MonkeyPatch, launch: Callable[..., Any]) -> None:
    """Replace the launches of the backend ``cuda`` by ``launch(weights, *arguments)`` until the test ends.

    The backend then accepts every call without gradients, on CPU tensors.
    """

    class Launches:
        def __init__(self, weights: FoldedAdapter, dtype: int) -> None:
            self.weights = weights

        def prepared(self) -> int:
            return 0

        def workspace(self, *layout: object) -> int:
            return 1 << 16

        def forward(self, *arguments: object) -> None:
            launch(self.weights, *arguments)

    monkeypatch.setattr(core, "module", SimpleNamespace(CudaAdapter=Launches))
    monkeypatch.setattr(cuda, "can_run", lambda case: "it has no gradients" if case.needs_grad else None)
    monkeypatch.setattr(cpu, "can_run", lambda case: "its module is replaced")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)
    monkeypatch.setattr(torch_private, "current_stream", lambda index: 0)
