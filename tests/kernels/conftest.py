"""Triton's interpreter without work whose result it throws away."""

import dataclasses
import importlib.util

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def no_overflow_checks() -> None:
    """The interpreter finds out whether integers overflow, in a quarter of its time, and asks in debugging only."""
    if torch.cuda.is_available() or importlib.util.find_spec("triton") is None:
        return
    from triton.runtime.interpreter import interpreter_builder

    interpreter_builder.options = dataclasses.replace(interpreter_builder.options, sanitize_overflow=False)
