"""Folded weights that are kept: after anything that happens to the parameters, the result is that of the new ones."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, stack_module_state, vmap

from helpers.adapters import relative_error
from helpers.small_towers import shake
from ht_kernels.nn import HTAdapter
from ht_kernels.published import VARIANTS

pytestmark = pytest.mark.usefixtures("one_thread")
DIM, WIDTH, GRID = 12, 4, (3, 2)
X = torch.randn(2, 7, DIM, generator=torch.Generator().manual_seed(0))


def new() -> HTAdapter:
    return shake(HTAdapter(DIM, WIDTH)).eval()


def published(adapter: HTAdapter) -> Tensor:
    """The oracle on copies of the parameters: it keeps nothing."""
    oracle = VARIANTS[adapter.variant](DIM, WIDTH).double().eval()
    oracle.load_state_dict({name: t.detach().clone() for name, t in adapter.state_dict().items()})
    with torch.no_grad():
        return oracle(X.double(), GRID)


def check(adapter: HTAdapter) -> None:
    with torch.no_grad():
        got = adapter(X.to(adapter.gamma.dtype if adapter.gamma.dtype == torch.float64 else torch.float32), GRID)
    assert relative_error(got.double() - X, published(adapter) - X) < 1e-5


def written_in_place(adapter: HTAdapter) -> HTAdapter:
    return shake(adapter)


def optimizer_step(**options: bool):  # type: ignore[no-untyped-def]
    def step(adapter: HTAdapter) -> HTAdapter:
        optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.1, **options)
        adapter(X.to(adapter.gamma.dtype), GRID).square().sum().backward()
        optimizer.step()
        adapter.zero_grad()
        return adapter

    return step


def loaded(adapter: HTAdapter) -> HTAdapter:
    adapter.load_state_dict(new().state_dict())
    return adapter


def loaded_by_assignment(adapter: HTAdapter) -> HTAdapter:
    adapter.load_state_dict(new().state_dict(), assign=True)
    return adapter


def data_assigned(adapter: HTAdapter) -> HTAdapter:
    for parameter in adapter.parameters():
        parameter.data = torch.randn_like(parameter) * 0.1
    return adapter


def data_transposed(adapter: HTAdapter) -> HTAdapter:
    weight = adapter.adapter_conv.projector.weight
    weight.data = weight.data.transpose(0, 1)
    return adapter


def data_written_then_eval(adapter: HTAdapter) -> HTAdapter:
    for parameter in adapter.parameters():
        parameter.data.mul_(0.5)
    return adapter.eval()


def data_written(adapter: HTAdapter) -> HTAdapter:
    """Averaged weights put in the place of the trained ones, as usually written."""
    for parameter in adapter.parameters():
        parameter.data.copy_(0.1 * torch.randn_like(parameter))
    return adapter


def one_value_written_by_numpy(adapter: HTAdapter) -> HTAdapter:
    if adapter.gamma.dtype != torch.bfloat16:
        adapter.project2.weight.detach().numpy()[-1, -1] += 3
    return adapter


def columns_written_of_a_part_of_a_larger_tensor(adapter: HTAdapter) -> HTAdapter:
    adapter.project1.weight.data = torch.randn(WIDTH, 2 * DIM).to(adapter.gamma)[:, ::2]
    check(adapter)
    adapter.project1.weight.data[:, -1] += 1
    return adapter


def fused_step_behind_a_call(adapter: HTAdapter) -> HTAdapter:
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.1, fused=True)
    adapter(X.to(adapter.gamma.dtype), GRID).square().sum().backward()
    check(adapter)
    optimizer.step()
    adapter.zero_grad()
    return adapter


def data_written_in_training(adapter: HTAdapter) -> HTAdapter:
    """A teacher that follows its student, as usually written."""
    adapter.train().dropout.p = 0.0
    check(adapter)
    for parameter in adapter.parameters():
        parameter.data.mul_(0.9)
    check(adapter)
    return adapter.eval()


def parameter_replaced(adapter: HTAdapter) -> HTAdapter:
    adapter.project1.weight = nn.Parameter(torch.randn_like(adapter.project1.weight))
    adapter.adapter_conv.freq_filter = nn.Parameter(torch.randn_like(adapter.adapter_conv.freq_filter))
    return adapter


def module_replaced(adapter: HTAdapter) -> HTAdapter:
    adapter.project2 = nn.Linear(WIDTH, DIM).to(adapter.gamma)
    adapter.adapter_conv.conv1 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH).to(adapter.gamma)
    return adapter


def other_parameters_for_one_call(adapter: HTAdapter) -> HTAdapter:
    with torch.no_grad():
        functional_call(adapter, {"gammax": torch.randn_like(adapter.gammax)}, (X.to(adapter.gamma.dtype), GRID))
    return adapter


def inference_mode(adapter: HTAdapter) -> HTAdapter:
    with torch.inference_mode():
        adapter(X.to(adapter.gamma.dtype), GRID)
        shake(adapter)
    return adapter


def called_under_autocast(adapter: HTAdapter) -> HTAdapter:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        shake(adapter)(X.to(adapter.gamma.dtype), GRID)
    return adapter


def called_with_tokens_without_values(adapter: HTAdapter) -> HTAdapter:
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        shake(adapter)(mode.from_tensor(X.to(adapter.gamma.dtype)), GRID)
    return adapter


def pickled(adapter: HTAdapter) -> HTAdapter:
    buffer = io.BytesIO()
    torch.save(adapter, buffer)
    buffer.seek(0)
    return shake(torch.load(buffer, weights_only=False))


def deep_copied(adapter: HTAdapter) -> HTAdapter:
    twin = shake(copy.deepcopy(adapter))
    check(adapter)
    return twin


def there_and_back(adapter: HTAdapter) -> HTAdapter:
    return adapter.double().bfloat16().float()


CHANGES = [
    written_in_place,
    optimizer_step(foreach=False),
    optimizer_step(foreach=True),
    optimizer_step(fused=True),
    loaded,
    loaded_by_assignment,
    data_assigned,
    data_transposed,
    data_written_then_eval,
    data_written,
    one_value_written_by_numpy,
    columns_written_of_a_part_of_a_larger_tensor,
    fused_step_behind_a_call,
    data_written_in_training,
    parameter_replaced,
    module_replaced,
    other_parameters_for_one_call,
    inference_mode,
    called_under_autocast,
    called_with_tokens_without_values,
    pickled,
    deep_copied,
    there_and_back,
    lambda adapter: adapter.double(),
    lambda adapter: adapter.float(),
]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=5))
def test_any_changes_in_any_order(changes) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    adapter = new()
    check(adapter)
    for change in changes:
        adapter = change(adapter)
        check(adapter)
        check(adapter)


@pytest.mark.parametrize("change", CHANGES)
def test_each_change(change) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    for _ in range(5):
        adapter = new()
        check(adapter)
        check(change(adapter))


def test_kept_only_where_nothing_can_change_unseen() -> None:
    adapter = new()
    with torch.no_grad():
        kept = adapter.folded()
        assert adapter.folded().up_bias is kept.up_bias
        assert adapter.eval().folded().down_bias is not kept.down_bias
        assert adapter.train().folded().down_bias is not adapter.folded().down_bias
    kept = adapter.eval().folded()
    assert kept.down_bias is not adapter.folded().down_bias and kept.down_bias.requires_grad
    with torch.inference_mode():
        made_here = new()
        assert made_here.folded().down_bias is not made_here.folded().down_bias


def test_another_epsilon() -> None:
    adapter, x = new(), 0.01 * X
    with torch.no_grad():
        adapter(x, GRID)
        adapter.norm.eps = 0.1
        kept = adapter(x, GRID)
    assert torch.allclose(kept, adapter(x, GRID))


def test_an_address_given_again() -> None:
    """What a parameter had is freed, and what it gets next may lie where that lay."""
    adapter, given_again = HTAdapter(64, 32).eval(), False
    weight = adapter.adapter_conv.projector.weight
    with torch.no_grad():
        for _ in range(200):
            mix, address = adapter.folded().mix_weight, weight.data_ptr()
            weight.data = torch.zeros(0)
            weight.data = torch.empty(32, 32, 1, 1).normal_()
            given_again |= weight.data_ptr() == address
            assert not torch.equal(adapter.folded().mix_weight, mix)
    assert not given_again


def test_weights_folded_in_inference_mode_serve_other_modes() -> None:
    adapter = new()
    with torch.inference_mode():
        adapter(X, GRID)
    check(adapter)
    x = X.clone().requires_grad_()
    adapter(x, GRID).sum().backward()
    assert x.grad is not None and adapter.gamma.grad is not None


def test_a_stack_of_adapters() -> None:
    """``vmap`` puts tensors without an address in place of the parameters."""
    adapters = [new() for _ in range(3)]
    parameters, _ = stack_module_state(adapters)
    check(adapters[0])
    with torch.no_grad():
        got = vmap(lambda p: functional_call(adapters[0], p, (X, GRID)))(parameters)
    for out, adapter in zip(got, adapters, strict=True):
        assert relative_error(out.double() - X, published(adapter) - X) < 1e-5
    check(adapters[0])


def test_compiled_and_eager_share_a_module() -> None:
    torch.compiler.reset()
    adapter = new()
    compiled = torch.compile(adapter, backend="eager")
    for _ in range(2):
        check(adapter)
        with torch.no_grad():
            assert relative_error(compiled(X, GRID).double() - X, published(adapter) - X) < 1e-5
        shake(adapter)
    check(adapter)
