"""The modules inside an adapter: weights that are computed, hooks, replaced parts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from helpers.adapters import relative_error
from helpers.data_parallel import replicate
from helpers.small_towers import shake
from ht_kernels import accelerate
from ht_kernels.folding import fold_adapter
from ht_kernels.nn import HTAdapter
from ht_kernels.published import HybridAdapter, PublishedAdapter

pytestmark = pytest.mark.usefixtures("one_thread")
DIM, WIDTH, GRID = 12, 4, (3, 2)
X = torch.randn(2, 7, DIM, generator=torch.Generator().manual_seed(0))


def new(spectral: str | None = None) -> HTAdapter:
    torch.manual_seed(0)
    return shake(HTAdapter(DIM, WIDTH, dropout=0.0, spectral=spectral, grid=GRID)).eval()


def calls_of(part: nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the calls of a module in a way that nothing can notice."""
    calls, kind = [], type(part)
    forward = kind.forward

    def counted(self: nn.Module, *args: Any) -> Any:
        if self is part:
            calls.append(1)
        return forward(self, *args)

    monkeypatch.setattr(kind, "forward", counted)
    return calls


def published(adapter: HTAdapter, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """The published computation on the same modules."""
    for hook in adapter._forward_pre_hooks.values():
        hook(adapter, ())
    return PublishedAdapter.forward(adapter, x, grid)


def gradients(adapter: HTAdapter, call: Callable[..., Tensor]) -> dict[str, Tensor]:
    adapter.zero_grad()
    call(adapter, X, GRID).square().sum().backward()
    return {name: p.grad.clone() for name, p in adapter.named_parameters() if p.grad is not None}


def check(adapter: HTAdapter) -> None:
    """Compare with the published computation on the same modules, in both modes, with gradients and twice without."""
    for training in (True, False):
        adapter.train(training)
        expected = gradients(adapter, published)
        got = gradients(adapter, HTAdapter.__call__)
        total = sum(float(g.norm()) for g in expected.values())
        for name, grad in got.items():
            assert float((grad - expected[name]).norm()) < 1e-4 * total, name
    for _ in range(2):
        with torch.no_grad():
            assert relative_error(adapter(X, GRID) - X, published(adapter, X, GRID) - X) < 1e-5


class Double(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


COMPUTED = {
    "pruned": lambda part: prune.l1_unstructured(part, "weight", amount=0.5),
    "pruned bias": lambda part: prune.random_unstructured(part, "bias", amount=0.5),
    "pruned twice": lambda part: (
        prune.l1_unstructured(part, "weight", amount=0.3),
        prune.l1_unstructured(part, "weight", amount=0.3),
    ),
    "weight_norm of old": weight_norm,
    "spectral_norm of old": spectral_norm,
    "weight_norm": parametrizations.weight_norm,
    "parametrized": lambda part: parametrize.register_parametrization(part, "weight", Double()),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("place", ["project1", "project2", "adapter_conv.conv2", "adapter_conv.noise_estimator.1"])
@pytest.mark.parametrize("way", COMPUTED)
def test_weights_that_are_computed_from_others(way: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = new()
    with torch.no_grad():
        adapter(X, GRID)
    part = adapter.get_submodule(place)
    COMPUTED[way](part)
    if way.startswith("spectral_norm"):
        adapter.train()  # iterates in training
        for _ in range(50):
            adapter(X, GRID)
    check(adapter)
    for parameter in adapter.parameters():
        parameter.data.mul_(1.5)
    check(adapter)
    calls = calls_of(part, monkeypatch)
    adapter(X, GRID)
    assert not calls


def test_weights_of_the_adapter_itself_and_made_permanent() -> None:
    adapter = new()
    prune.l1_unstructured(adapter, "gammax", amount=0.5)
    prune.l1_unstructured(adapter.adapter_conv, "freq_filter", amount=0.5)
    check(adapter)
    assert int((adapter.folded().skip_gain == 0).sum()) == DIM // 2
    prune.remove(adapter, "gammax")
    prune.remove(adapter.adapter_conv, "freq_filter")
    check(adapter)
    parametrize.register_parametrization(adapter, "gamma", Double())
    check(adapter)
    parametrize.remove_parametrizations(adapter, "gamma")
    assert type(adapter) is HTAdapter
    check(adapter)
    with torch.no_grad():
        assert adapter.folded().up_bias is adapter.folded().up_bias


PLACES = ["project1", "norm", "dropout", "adapter_conv", "adapter_conv.conv3", "adapter_conv.noise_estimator.2"]
HOOKS = ["forward", "forward_pre", "full_backward", "full_backward_pre"]


@pytest.mark.parametrize("spectral", [None, "full"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_fire_while_they_are_there(
    kind: str, place: str, spectral: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, fired = new(spectral), []
    expected = adapter(X, GRID)
    part = adapter.get_submodule(place)
    handle = getattr(part, f"register_{kind}_hook")(lambda *_: fired.append(1))
    x = X.clone().requires_grad_()
    got = adapter(x, GRID)
    got.sum().backward()
    assert fired == [1] and relative_error(got.detach() - X, expected.detach() - X) < 1e-5
    handle.remove()
    calls = calls_of(part, monkeypatch)
    with torch.no_grad():
        assert relative_error(adapter(X, GRID) - X, expected - X) < 1e-5
    assert not calls and fired == [1]


def test_hooks_for_all_modules() -> None:
    adapter, seen = new(), []
    expected = adapter(X, GRID)
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    got = adapter(X, GRID)
    handle.remove()
    assert set(seen) == set(adapter.modules()) and relative_error(got - X, expected - X) < 1e-5


class Low(nn.Module):
    """A Linear and a low-rank one beside it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down, self.up = nn.Linear(base.in_features, 2), nn.Linear(2, base.out_features)

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def replaced_by_another_class(adapter: HTAdapter) -> None:
    adapter.project1 = Low(adapter.project1)


def given_a_forward(adapter: HTAdapter) -> None:
    forward = adapter.project2.forward
    adapter.project2.forward = lambda x: 2 * forward(x)


def convolved_over_a_ring(adapter: HTAdapter) -> None:
    adapter.adapter_conv.conv2 = nn.Conv2d(WIDTH, WIDTH, 5, padding=2, groups=WIDTH, padding_mode="circular")


def without_bias(adapter: HTAdapter) -> None:
    adapter.project1 = nn.Linear(DIM, WIDTH, bias=False)


def longer_estimator(adapter: HTAdapter) -> None:
    adapter.adapter_conv.noise_estimator.append(nn.Softmax(dim=1))


@pytest.mark.parametrize(
    "change",
    [replaced_by_another_class, given_a_forward, convolved_over_a_ring, without_bias, longer_estimator],
)
def test_parts_that_are_replaced_are_computed_as_they_are(change: Callable[[HTAdapter], None]) -> None:
    adapter = new()
    before = copy.deepcopy(adapter)
    with torch.no_grad():
        adapter(X, GRID)
    change(adapter)
    check(adapter)
    check(copy.deepcopy(adapter)) if change is not given_a_forward else None
    with torch.no_grad():
        assert not torch.allclose(adapter(X, GRID), before(X, GRID))
        assert adapter(X.bfloat16(), GRID).dtype == torch.bfloat16


CONSTANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "eps": ("norm", {"eps": 0.5}),
    "padding": ("adapter_conv.conv2", {"padding": (4, 4), "dilation": (2, 2)}),
    "ring": ("adapter_conv.conv1", {"padding_mode": "circular", "_reversed_padding_repeated_twice": [1, 1, 1, 1]}),
    "softmax": ("adapter_conv.noise_estimator.4", {"dim": 2}),
    "frequency": ("adapter_conv", {"frequency": False}),
}


@pytest.mark.parametrize("change", CONSTANTS)
def test_constants_that_change_are_computed_with(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two calls, and back again: then the kernels run again."""
    adapter, (place, values) = new(), CONSTANTS[change]
    part = adapter.get_submodule(place)
    with torch.no_grad():
        adapter.adapter_conv.freq_filter.mul_(1.5)
        expected = adapter(X, GRID)
    before = {name: getattr(part, name) for name in values}
    vars(part).update(values)
    check(adapter)
    check(copy.deepcopy(adapter))
    with torch.no_grad():
        assert relative_error(adapter(X, GRID) - X, expected - X) > 1e-3
    vars(part).update(before)
    calls = calls_of(part, monkeypatch)
    with torch.no_grad():
        assert torch.equal(adapter(X, GRID), expected) and not calls


@pytest.mark.parametrize("value", [np.array([2, 2]), torch.tensor([2, 2]), (np.array([2, 2]), 2)], ids=type)
def test_a_constant_that_is_an_array_leaves_the_kernels_out(
    value: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And the log says so, once."""
    adapter, called = new(), []
    monkeypatch.setattr(PublishedAdapter, "forward", lambda self, x, *_: called.append(1) or x)
    adapter.adapter_conv.conv2.padding = value
    with caplog.at_level("INFO", "ht_kernels"):
        adapter(X, GRID)
        adapter(X, GRID)
    assert called == [1, 1]
    (message,) = caplog.messages
    assert message.endswith("without kernels: padding of adapter_conv.conv2 is no longer (2, 2)")


def test_a_list_is_as_good_as_a_tuple(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    adapter = new()
    expected = adapter(X, GRID)
    adapter.adapter_conv.conv2.padding = [2, 2]
    calls = calls_of(adapter.adapter_conv.conv2, monkeypatch)
    with caplog.at_level("INFO", "ht_kernels"):
        assert torch.equal(adapter(X, GRID), expected) and not calls and not caplog.messages


def test_the_log_says_which_hooks_and_replaced_parts_leave_the_kernels_out(caplog: pytest.LogCaptureFixture) -> None:
    adapter = new()
    with caplog.at_level("INFO", "ht_kernels"):
        handle = adapter.norm.register_forward_hook(lambda *_: None)
        adapter(X, GRID)
        handle.remove()
        replaced_by_another_class(adapter)
        adapter(X, GRID)
    assert [message.partition("kernels: ")[2] for message in caplog.messages] == [
        "a LayerNorm inside has hooks or a replaced forward",
        "a module inside was replaced, added or removed",
    ]


def test_an_attribute_that_was_deleted_is_no_constant_of_before() -> None:
    adapter = new()
    del adapter.adapter_conv.conv1.stride
    with pytest.raises(AttributeError, match="stride"):
        adapter(X, GRID)


class Mirrored(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(-x)


def test_a_class_that_changes_is_noticed() -> None:
    adapter = new()
    with torch.no_grad():
        expected = adapter(X, GRID)
        adapter.project2.__class__ = Mirrored
        assert not torch.allclose(adapter(X, GRID), expected)
    check(adapter)


def test_the_dropout_has_a_probability_and_a_mode_of_its_own() -> None:
    """Uncertainty by dropout leaves it on in evaluation mode; fine-tuning may switch it off in training."""
    adapter = new()
    adapter.dropout.p = 1.0
    with torch.no_grad():
        kept, dropped = adapter(X, GRID), X + adapter.project2.bias
        adapter.dropout.train()
        assert relative_error(adapter(X, GRID), dropped) < 1e-5
        adapter.train().dropout.eval()
        assert relative_error(adapter(X, GRID), kept) < 1e-5
    adapter.eval().dropout.train()
    assert relative_error(adapter(X, GRID).detach(), dropped) < 1e-5


def test_folding_refuses_parts_of_other_libraries() -> None:
    adapter = new()
    replaced_by_another_class(adapter)
    with pytest.raises(ValueError, match=r"project1 of this one is a Low, not a Linear.*merge"):
        fold_adapter(adapter)
    adapter = new()
    without_bias(adapter)
    with pytest.raises(ValueError, match=r"has no 'project1.bias'"):
        fold_adapter(adapter)


def test_low_rank_adaptation_by_peft() -> None:
    peft = pytest.importorskip("peft")
    adapter = new()
    expected = adapter(X, GRID)
    tuned = peft.inject_adapter_in_model(
        peft.LoraConfig(r=2, target_modules=["project1", "project2"], lora_dropout=0.0, init_lora_weights=False),
        adapter,
    )
    adapter.requires_grad_(True)
    check(tuned)
    assert not torch.allclose(tuned(X, GRID), expected)
    for layer in (adapter.project1, adapter.project2):
        layer.merge()
    merged = tuned(X, GRID)
    adapter.project1, adapter.project2 = adapter.project1.get_base_layer(), adapter.project2.get_base_layer()
    check(adapter)
    assert relative_error(adapter(X, GRID) - X, merged - X) < 1e-5


def test_replicas_of_data_parallel() -> None:
    adapter = new()
    with torch.no_grad():
        expected = adapter(X, GRID)
        replica, twin = replicate(adapter, 2), copy.deepcopy(adapter)
        for parameter in twin.parameters():
            parameter.mul_(2)
        assert relative_error(replica(X, GRID) - X, twin(X, GRID) - X) < 1e-5
        assert torch.equal(adapter(X, GRID), expected)
    replicate(adapter, 1)(X, GRID).sum().backward()
    assert adapter.project1.weight.grad is not None


@pytest.mark.parametrize("normalise", [spectral_norm, parametrizations.spectral_norm])
def test_accelerate_does_not_change_what_a_norm_has_estimated(normalise: Callable[..., nn.Module]) -> None:
    """In training mode, each look at a weight with a spectral norm goes a step on with the estimate of that norm."""
    torch.manual_seed(0)
    adapter = HybridAdapter(DIM, WIDTH).train()
    normalise(adapter.project1)
    before = {name: value.clone() for name, value in adapter.named_buffers()}
    assert accelerate(adapter).swapped and before
    for name, value in adapter.named_buffers():
        assert torch.equal(value, before[name]), name
