"""How kernels run in tests."""

import importlib.util

import pytest
import torch

from benchmarks.gpu import interpreter


@pytest.fixture(scope="session", autouse=True)
def quick_interpreter() -> None:
    if not torch.cuda.is_available() and importlib.util.find_spec("triton") is not None:
        interpreter.speed_up()
