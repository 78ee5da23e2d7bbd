"""A CUDA backend whose kernels do nothing, on tensors of the CPU: what is left of a call is its work in Python."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ht_kernels.backends import CAN_RUN, core


def replace(monkeypatch: pytest.MonkeyPatch, launch: Callable[..., Any]) -> None:
    """Until the test ends, ``cuda`` takes every call without gradients, and ``launch`` stands for its launches."""
    kernels = SimpleNamespace(adapter_forward_workspace_cuda=lambda sizes, dtype: 1 << 16, adapter_forward_cuda=launch)
    monkeypatch.setattr(core, "module", kernels)
    monkeypatch.setitem(CAN_RUN, "cuda", lambda case: "it has no gradients" if case.needs_grad else None)
    monkeypatch.setitem(CAN_RUN, "cpu", lambda case: "its module is replaced")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 0, raising=False)
