"""ht_kernels.published against outputs and gradients of the published code."""

from __future__ import annotations

import pytest
import torch

from helpers.adapters import GOLDEN, read_golden, relative_error


def test_every_variant_has_golden_cases() -> None:
    assert len(GOLDEN) == 8


@pytest.mark.parametrize("name", GOLDEN)
def test_equals_the_published_code(name: str) -> None:
    adapter, grid, prefix, tensors = read_golden(name)
    x = tensors["x"].requires_grad_()
    out = adapter(x, grid, prefix)
    assert relative_error(out - x, tensors["out"] - x) < 1e-12
    out.backward(tensors["grad_out"])
    assert x.grad is not None and relative_error(x.grad, tensors["grad_x"]) < 1e-12
    for key, parameter in adapter.named_parameters():
        assert parameter.grad is not None and relative_error(parameter.grad, tensors[f"grad.{key}"]) < 1e-11, key


def test_parameters_are_the_published_ones() -> None:
    for name in GOLDEN:
        adapter, *_, tensors = read_golden(name)
        assert {f"param.{key}" for key in adapter.state_dict()} == {k for k in tensors if k.startswith("param.")}


def test_starts_almost_as_the_identity_of_its_input() -> None:
    adapter = type(read_golden(GOLDEN[0])[0])(16, 8)
    assert torch.equal(adapter.gamma, torch.full((16,), 1e-6)) and torch.equal(adapter.gammax, torch.ones(16))
