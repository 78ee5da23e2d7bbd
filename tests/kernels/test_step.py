"""A training step in one node of autograd does what the fold and the adapter do in two, bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode

import ht_kernels as ht
from helpers.small_towers import shake
from ht_kernels.backends import core
from ht_kernels.folding import adapter_weights, unfolded
from ht_kernels.functional import ht_adapter, ht_adapter_unfolded, spectral_filter
from ht_kernels.nn import HTAdapter
from ht_kernels.ops.fold import fold_adapter
from ht_kernels.published import VARIANTS

pytestmark = pytest.mark.skipif(bool(core.missing), reason="there is no compiled core")
GRID = (3, 4)
DIM = 37


def new(variant: str = "hybrid", spectral: str | None = None, dropout: float = 0.0) -> HTAdapter:
    torch.manual_seed(0)
    return shake(HTAdapter(DIM, 12, variant, spectral=spectral, grid=GRID, dropout=dropout)).train()


def tokens(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(3, 1 + GRID[0] * GRID[1], DIM, generator=torch.Generator().manual_seed(1)).to(dtype)


def in_two(adapter: HTAdapter, x: Tensor) -> Tensor:
    return ht_adapter(x, fold_adapter(adapter), GRID, eps=adapter.norm.eps, dropout=adapter.dropout.p)


def in_one(adapter: HTAdapter, x: Tensor) -> Tensor:
    return adapter(x, GRID)


def results(step: Callable[[HTAdapter, Tensor], Tensor], adapter: HTAdapter, x: Tensor) -> list[Tensor]:
    """The output, and the gradients of x and of all parameters that have one."""
    adapter.zero_grad()
    leaf = x.detach().clone().requires_grad_()
    torch.manual_seed(2)
    out = step(adapter, leaf)
    assert out.grad_fn is not None and (out.grad_fn.name() == "_StepBackward") == (step is in_one)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(out.dtype))
    assert leaf.grad is not None
    return [out.detach(), leaf.grad, *(p.grad for p in adapter.parameters() if p.grad is not None)]


def assert_same(adapter: HTAdapter, x: Tensor, gradients: int | None = None) -> None:
    expected, found = results(in_two, adapter, x), results(in_one, adapter, x)
    assert len(found) == len(expected) == 2 + (len(list(adapter.parameters())) if gradients is None else gradients)
    for one, two in zip(found, expected, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("spectral", [None, "full", "shared", "radial"])
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_the_bits_are_those_of_two_nodes(variant: str, spectral: str | None) -> None:
    if spectral is not None and variant not in ("freq_enhanced", "hybrid"):
        pytest.skip("no filter")
    assert_same(new(variant, spectral), tokens())


def test_with_dropout_and_in_bfloat16() -> None:
    assert_same(new(dropout=0.4), tokens())
    assert_same(new(dropout=0.4), tokens(torch.bfloat16))


def test_any_strides() -> None:
    assert_same(new(), tokens().transpose(0, 1).contiguous().transpose(0, 1))
    assert_same(new(), tokens().transpose(1, 2).contiguous().transpose(1, 2))


def test_an_empty_and_an_expanded_batch() -> None:
    assert_same(new(), tokens()[:0])
    adapter, leaf = new(), tokens()[:1].requires_grad_()
    inputs = [leaf, *adapter.parameters()]
    found, expected = (torch.autograd.grad(f(adapter, leaf.expand(3, -1, -1)).sum(), inputs) for f in (in_one, in_two))
    assert all(map(torch.equal, found, expected))


def test_frozen_tied_and_computed_weights() -> None:
    adapter = new()
    adapter.norm.requires_grad_(False)
    adapter.project2.requires_grad_(False)
    assert_same(adapter, tokens(), gradients=len(list(adapter.parameters())) - 4)
    adapter = new()
    adapter.adapter_conv.conv1.bias = adapter.adapter_conv.conv2.bias
    assert_same(adapter, tokens())
    adapter = new()
    parametrizations.weight_norm(adapter.project1)
    assert_same(adapter, tokens())
    adapter = new()
    adapter.gamma = nn.Parameter(torch.randn(DIM))
    assert_same(adapter, tokens())


def test_tokens_without_gradients() -> None:
    adapter = new()
    adapter(tokens(), GRID).sum().backward()
    expected = [p.grad for p in adapter.parameters()]
    adapter.zero_grad()
    in_two(adapter, tokens()).sum().backward()
    for parameter, grad in zip(adapter.parameters(), expected, strict=True):
        assert grad is not None and torch.equal(grad, parameter.grad)


def test_gradients_of_gradients_are_refused_and_first_ones_are_right() -> None:
    adapter, x = new(), tokens().requires_grad_()
    inputs = [x, *adapter.parameters()]
    plain = torch.autograd.grad(adapter(x, GRID).square().sum(), inputs)
    graph = torch.autograd.grad(adapter(x, GRID).square().sum(), inputs, create_graph=True)
    for one, two in zip(plain, graph, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        graph[0].sum().backward()


def test_a_graph_that_is_kept_gives_the_same_again_and_an_output_stays() -> None:
    adapter, x = new(), tokens().requires_grad_()
    out = adapter(x, GRID)
    copy = out.detach().clone()
    first = torch.autograd.grad(out.sum(), list(adapter.parameters()), retain_graph=True)
    held = [grad.clone() for grad in first]
    adapter(2 * tokens().requires_grad_(), GRID).sum().backward()
    second = torch.autograd.grad(out.sum(), list(adapter.parameters()))
    assert torch.equal(out, copy)
    for a, b, c in zip(first, held, second, strict=True):
        assert torch.equal(a, b) and torch.equal(b, c)


def test_gradients_lie_in_memory_of_their_own() -> None:
    """A gradient is saved, moved and resized by itself."""
    adapter = new()
    adapter(tokens().requires_grad_(), GRID).sum().backward()
    grads = [p.grad for p in adapter.parameters() if p.grad is not None]
    assert all(grad.untyped_storage().nbytes() == grad.nbytes for grad in grads)
    assert len({grad.untyped_storage().data_ptr() for grad in grads}) == len(grads)


def test_a_weight_written_between_the_passes_is_noticed() -> None:
    adapter = new()
    out = adapter(tokens().requires_grad_(), GRID)
    with torch.no_grad():
        adapter.project1.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_tensors_that_hooks_keep() -> None:
    adapter, x = new(), tokens()
    expected = results(in_one, adapter, x)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        found = results(in_one, adapter, x)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("step", [in_one, in_two])
def test_hooks_may_give_other_strides_back(step: Callable[[HTAdapter, Tensor], Tensor]) -> None:
    def turned(t: Tensor) -> Tensor:
        return t.transpose(0, 1).contiguous().transpose(0, 1) if t.dim() > 1 else t

    adapter, x = new(), tokens()
    expected = results(step, adapter, x)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, turned):
        found = results(step, adapter, x)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("step", [in_one, in_two])
def test_a_weight_of_another_shape_in_the_backward_never_reaches_the_kernels(
    step: Callable[[HTAdapter, Tensor], Tensor],
) -> None:
    adapter = new()
    out = step(adapter, tokens())
    adapter.norm.weight.data = torch.ones(3)
    with pytest.raises(RuntimeError, match=r"\(\[37\]\).* in the forward pass and is .*\(\[3\]\)"):
        out.sum().backward()


def test_a_folded_weight_of_another_shape_in_the_backward_never_reaches_the_kernels() -> None:
    folded = new().folded().map(lambda t: t.detach().clone().requires_grad_())
    out = ht_adapter(tokens(), folded, GRID)
    folded.up_weight.data = torch.ones(3, 2)
    with pytest.raises(RuntimeError, match=r"\(\[37, 12\]\).* in the forward pass and is .*\(\[3, 2\]\)"):
        out.sum().backward()


def test_hooks_that_give_another_shape_never_reach_the_filter() -> None:
    image, mask = torch.randn(2, 12, *GRID), torch.ones(12, GRID[0], GRID[1] // 2 + 1, dtype=torch.complex64)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t[:1]):
        out = spectral_filter(image, mask.requires_grad_())
    with pytest.raises(RuntimeError, match="in the forward pass and is"):
        out.abs().sum().backward()


def test_hooks_that_give_another_dtype_back_are_refused() -> None:
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t.bfloat16()):
        out = in_one(new(), tokens())
    with pytest.raises(RuntimeError, match=r"float32.* in the forward pass and is .*bfloat16"):
        out.sum().backward()


@pytest.mark.parametrize("observer", [torch.profiler.profile, lambda: FlopCounterMode(display=False)])
def test_operators_are_observed_in_the_backward_alone(observer: Callable[[], AbstractContextManager[object]]) -> None:
    adapter, x = new(), tokens()
    expected = results(in_one, adapter, x)
    adapter.zero_grad()
    out = in_one(adapter, x)
    with observer():
        out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(3)))
    for parameter, grad in zip(adapter.parameters(), expected[2:], strict=True):
        assert parameter.grad is not None and not parameter.grad.requires_grad
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-4, atol=1e-4)


def test_another_default_device() -> None:
    adapter, x = new(), tokens()
    with torch.device("meta"):
        out = in_one(adapter, x)
    assert torch.equal(out, in_two(adapter, x))


def test_checkpointed_blocks() -> None:
    adapter, x = new(dropout=0.4), tokens()
    expected = results(in_one, adapter, x)
    adapter.zero_grad()
    leaf = x.clone().requires_grad_()
    torch.manual_seed(2)
    out = torch.utils.checkpoint.checkpoint(adapter, leaf, GRID, use_reentrant=False)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(3)))
    assert all(map(torch.equal, [out, leaf.grad, *(p.grad for p in adapter.parameters())], expected))


def test_hooks_of_parameters_run() -> None:
    adapter, seen = new(), []
    adapter.gamma.register_hook(lambda grad: seen.append(grad))
    adapter(tokens(), GRID).sum().backward()
    assert len(seen) == 1


def test_where_it_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.module, "step_forward", lambda *_: pytest.fail("the step ran"))
    adapter, x = new(), tokens().requires_grad_()
    with torch.no_grad():
        adapter(x, GRID)
    with torch.profiler.profile():
        adapter(x, GRID)
    ht.set_backend("reference")
    try:
        adapter(x, GRID)
    finally:
        ht.set_backend(None)
    adapter.double()(x.double(), GRID)


def test_weights_of_wrong_shapes_never_reach_the_kernels() -> None:
    adapter = new()
    adapter.project2.weight = nn.Parameter(torch.randn(DIM, 11))
    with pytest.raises(ValueError, match="must have shape"):
        adapter(tokens(), GRID)
    adapter = new()
    adapter.adapter_conv.conv1.weight = nn.Parameter(torch.randn(12, 1, 2, 2))
    with pytest.raises(RuntimeError):
        adapter(tokens(), GRID)


def test_wrong_arguments() -> None:
    weights = unfolded(adapter_weights(new()))
    with pytest.raises(ValueError, match="prefix_tokens 2"):
        ht_adapter_unfolded(tokens(), weights, GRID, 2)
    with pytest.raises(ValueError, match="two numbers"):
        ht_adapter_unfolded(tokens(), weights, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dropout must be a probability"):
        ht_adapter_unfolded(tokens(), weights, GRID, dropout=2.0)
    with pytest.raises(ValueError, match="x has width 36"):
        ht_adapter_unfolded(tokens()[..., :36], weights, GRID)
