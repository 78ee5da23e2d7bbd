"""How kernels run in tests."""

import importlib.util

import pytest
import torch

from ht_kernels.ops import dispatch


@pytest.fixture(scope="session", autouse=True)
def quick_interpreter() -> None:
    if not torch.cuda.is_available() and importlib.util.find_spec("triton") is not None:
        from benchmarks.gpu import interpreter

        interpreter.speed_up()


@pytest.fixture
def failing_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend that is chosen is Triton, and it cannot launch."""

    def fail(*_: object) -> None:
        raise RuntimeError("no driver")

    monkeypatch.setattr("ht_kernels.backends.triton.forward.launch", fail)
    monkeypatch.setattr(dispatch.choices, "retired", {})
    reasons = {"triton": None, "cuda": "out of the way", "cpu": "out of the way"}
    for name, reason in reasons.items():
        monkeypatch.setattr(dispatch.BACKENDS[name], "can_run", lambda case, reason=reason: reason)
