"""Stages of the CPU kernels: the same bits when measured, and times that add up."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import ht_kernels as ht
from ht_kernels.backends.call import Layout
from ht_kernels.bench import stages
from ht_kernels.bench.shake import shake
from ht_kernels.folding import FoldedAdapter
from ht_kernels.functional import ht_adapter

LAYOUT = Layout(7, 6, 2, 1e-5)


def inputs(spectral: str | None, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, FoldedAdapter]:
    torch.manual_seed(0)
    adapter = ht.HTAdapter(40, 12, spectral=spectral, dropout=0.0, grid=LAYOUT.grid).eval()
    shake(adapter)
    with torch.no_grad():
        folded = adapter.folded()
    x, grad_out = (torch.randn(3, 44, 40).to(dtype) for _ in range(2))
    return x, grad_out, folded


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spectral", [None, "full", "radial"])
def test_the_same_bits_when_measured(spectral: str | None, dtype: torch.dtype) -> None:
    x, grad_out, folded = inputs(spectral, dtype)
    forward, out = stages.forward_call(x, folded, LAYOUT)
    forward()
    with torch.no_grad():
        plain = ht_adapter(x, folded, LAYOUT.grid, LAYOUT.prefix_tokens, backend="cpu")
    assert torch.equal(out, plain)

    backward, grad_x, grads = stages.backward_call(x, grad_out, folded, LAYOUT)
    backward()
    leaf, weights = x.clone().requires_grad_(), folded.map(lambda t: t.detach().clone().requires_grad_())
    result = ht_adapter(leaf, weights, LAYOUT.grid, LAYOUT.prefix_tokens, backend="cpu")
    result.backward(grad_out)
    assert leaf.grad is not None and torch.equal(grad_x, leaf.grad)
    for name, weight, grad in zip(weights._fields, weights, grads, strict=True):
        if name != "mask" or spectral != "radial":  # whose gradient goes on to the curve
            assert weight is grad is None or torch.equal(weight.grad, grad), name


@pytest.mark.parametrize("spectral", [None, "full"])
def test_stages_add_up_to_the_call(spectral: str | None) -> None:
    x, grad_out, folded = inputs(spectral, torch.float32)
    expected = {"down", "noise", "mix", "up", stages.OUTSIDE} | ({"filter"} if spectral else set())
    for call in (stages.forward_call(x, folded, LAYOUT)[0], stages.backward_call(x, grad_out, folded, LAYOUT)[0]):
        for _ in range(6):
            call()
        for seconds in call.calls:
            assert all(value >= 0 for value in seconds.values())
            assert seconds[stages.OUTSIDE] < sum(seconds.values())
        found = call.samples(2, 2)  # each after a call that does not count
        assert expected <= set(found) and ("filter" in found) == (spectral is not None)
        assert found["down"] == pytest.approx([sum(c["down"] for c in call.calls[i : i + 2]) / 2 for i in (1, 4)])


def test_threads_that_wait_at_the_end() -> None:
    """One of three threads did not run; of the others one was done 2 seconds before the other."""
    found = stages.split(["down", "up", "wait"], [[4.0, 4.0, 1.0], [0.0, 0.0, 0.0], [3.0, 3.0, 1.0]], took=10.0)
    assert found == {"down": 3.5, "up": 3.5, "wait": 2.0, stages.OUTSIDE: 1.0}
    assert sum(found.values()) == 10.0


def test_kernels_of_a_profile_by_name() -> None:
    def event(name: str, microseconds: float, device: str = "CUDA") -> SimpleNamespace:
        time_range = SimpleNamespace(elapsed_us=lambda: microseconds)
        return SimpleNamespace(name=name, device_type=SimpleNamespace(name=device), time_range=time_range)

    found = stages.by_kernel(
        [
            event("void ht::down_project<float, 64, 64>(ht::Arguments, float const*)", 3.0),
            event("mix_and_up_project", 4.0),
            event("mix_and_up_project", 1.0),
            event("cudaLaunchKernel", 9.0, "CPU"),
        ]
    )
    assert found == pytest.approx({"down_project": 3e-6, "mix_and_up_project": 5e-6})
    assert set(stages.GPU_STAGES) >= set(found)
