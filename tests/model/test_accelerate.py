"""accelerate: a model built by other code keeps everything but the time its adapters take."""

from __future__ import annotations

import copy
import io
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, weight_norm

import ht_kernels as ht
from helpers.adapters import relative_error
from helpers.published_stand_in import FORMS, SequenceFirstAdapter, Wrapper, build
from helpers.small_towers import DEPTH, DIM
from ht_kernels.nn import HTAdapter

pytestmark = pytest.mark.usefixtures("one_thread")
FLAGS = {
    "baseline": (False, False),
    "noise_aware": (False, True),
    "freq_enhanced": (True, False),
    "hybrid": (True, True),
}


def gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    out = model.encode_image(x)
    out.square().sum().backward()
    return out.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("variant", FLAGS)
@pytest.mark.parametrize("form", FORMS)
def test_same_results_from_the_same_parameters(form: str, variant: str) -> None:
    model = build(form, *FLAGS[variant]).eval()
    x = torch.randn(3, 3, 64, 64)
    optimizer = torch.optim.SGD([p for name, p in model.named_parameters() if "mona" in name], lr=0.01)
    parameters, names, keys = (
        list(model.parameters()),
        [n for n, _ in model.named_parameters()],
        list(model.state_dict()),
    )
    adapters = {name: module for name, module in model.named_modules() if hasattr(module, "gammax")}
    expected, expected_grads = gradients(model, x)

    state = torch.random.get_rng_state()
    report = ht.accelerate(model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [s.name for s in report.swapped] == list(adapters) and not report.left
    assert {(s.variant, s.dim, s.bottleneck) for s in report.swapped} == {(variant, DIM, 8)}
    assert all(isinstance(model.get_submodule(name), HTAdapter) for name in adapters)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert [n for n, _ in model.named_parameters()] == names and list(model.state_dict()) == keys

    got, grads = gradients(model, x)
    assert relative_error(got, expected) < 1e-5
    assert grads.keys() == expected_grads.keys()
    total = sum(float(g.norm()) for g in expected_grads.values())
    for name, grad in grads.items():
        assert float((grad - expected_grads[name]).norm()) < 1e-4 * total, name
    before = got
    optimizer.step()
    with torch.no_grad():
        assert not torch.allclose(model.encode_image(x), before)


def test_modes_hooks_and_precision_are_kept() -> None:
    model = build("timm").double()
    adapter = model.visual.trunk.blocks[0].mona.clip_mona
    adapter.dropout.p, adapter.norm.eps = 0.3, 1e-3
    calls: list[int] = []
    adapter.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(2, 3, 64, 64).double()
    expected = model.eval().encode_image(x)
    calls.clear()
    model.train()
    ht.accelerate(model)
    assert adapter.training and adapter.dropout.p == 0.3
    torch.testing.assert_close(model.eval().encode_image(x), expected, rtol=0, atol=1e-10)
    assert calls == [1]
    model.train()
    assert not torch.equal(model.encode_image(x), model.encode_image(x))


def test_only_the_class_changes_so_functions_that_hold_the_adapter_follow() -> None:
    adapter = SequenceFirstAdapter(DIM, 8).eval()
    model = nn.Sequential(adapter)
    held = adapter.__call__
    ht.accelerate(model)
    assert model[0] is adapter and isinstance(adapter, HTAdapter)
    x = torch.randn(17, 2, DIM)
    assert torch.equal(held(x, (4, 4)), model[0](x, hw_shapes=(4, 4)))


def test_a_square_without_prefix_tokens_when_no_grid_is_given() -> None:
    adapter, x = SequenceFirstAdapter(DIM, 8).eval(), torch.randn(16, 2, DIM)
    expected = adapter(x)
    ht.accelerate(adapter)
    torch.testing.assert_close(adapter(x), expected, rtol=1e-5, atol=1e-5)


def test_twice_and_nothing() -> None:
    model = build("openai")
    ht.accelerate(model)
    again = ht.accelerate(model)
    assert not again.swapped and {left.reason for left in again.left} == {"it runs on the kernels already"}
    assert str(ht.accelerate(nn.Linear(2, 2))) == "No published adapters and no published task model here."


def test_a_trial_touches_nobody() -> None:
    """Copying a hook that is a method would copy its owner, and a trial would use up the caller's random numbers."""

    class Owner:
        def __init__(self) -> None:
            self.calls = 0

        def see(self, *_: object) -> None:
            self.calls += 1

        def __deepcopy__(self, memo: object) -> Owner:
            raise AssertionError("copied")

    owner, adapter = Owner(), SequenceFirstAdapter(DIM, 8)
    adapter.register_forward_hook(owner.see)
    adapter.register_forward_pre_hook(owner.see)
    before = copy.deepcopy(adapter.state_dict())
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(2)
    assert ht.accelerate(adapter).swapped
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    assert torch.equal(torch.random.get_rng_state(), state) and owner.calls == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter.state_dict().items())
    adapter(torch.randn(17, 2, DIM), (4, 4))
    assert owner.calls == 2


def test_wrappers_and_shared_adapters() -> None:
    class Parallel(nn.Module):
        """What DistributedDataParallel does to names."""

        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    adapter = Wrapper(SequenceFirstAdapter(DIM, 8).eval())
    model = Parallel(nn.ModuleDict({"a": adapter, "b": adapter}))
    x = torch.randn(2, 17, DIM)
    expected = adapter(x, (4, 4))
    assert [s.name for s in ht.accelerate(model).swapped] == ["module.a.clip_mona"]
    assert model.module["a"] is model.module["b"]
    torch.testing.assert_close(model.module["b"](x, hw_shapes=(4, 4)), expected, rtol=1e-5, atol=1e-5)


def test_a_compiled_model_is_compiled_again() -> None:
    torch.compiler.reset()
    model = build("timm").eval()
    compiled, x = torch.compile(model.visual, backend="eager"), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = compiled(x)
        assert len(ht.accelerate(compiled).swapped) == DEPTH
        model.visual.trunk.blocks[0].mona.clip_mona.gammax.mul_(2)
        changed = compiled(x)
        model.visual.trunk.blocks[0].mona.clip_mona.gammax.div_(2)
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(changed, expected, rtol=1e-4, atol=1e-4)


def test_a_compiled_adapter_can_be_copied() -> None:
    adapter = SequenceFirstAdapter(DIM, 8).eval()
    ht.accelerate(adapter)
    adapter.compile(backend="eager")
    x = torch.randn(17, 2, DIM)
    torch.testing.assert_close(copy.deepcopy(adapter)(x, (4, 4)), adapter(x, (4, 4)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("variant", FLAGS)
def test_other_precisions(variant: str, dtype: torch.dtype) -> None:
    adapter = SequenceFirstAdapter(DIM, 8, *FLAGS[variant]).eval()
    exact, x = copy.deepcopy(adapter).to(dtype).double(), torch.randn(17, 2, DIM).to(dtype)
    assert ht.accelerate(adapter.to(dtype)).swapped
    got = adapter(x, (4, 4))
    assert got.dtype == dtype and adapter.gamma.dtype == dtype
    tolerance = 1e-10 if dtype == torch.float64 else 0.03
    assert relative_error(got, exact(x.double(), (4, 4))) < tolerance


def test_an_adapter_that_adds_nothing_yet() -> None:
    adapter = SequenceFirstAdapter(DIM, 8)
    nn.init.zeros_(adapter.project2.weight)
    nn.init.zeros_(adapter.project2.bias)
    assert ht.accelerate(adapter).swapped


def test_inside_inference_mode() -> None:
    with torch.inference_mode():
        adapter = SequenceFirstAdapter(DIM, 8).eval()
        x = torch.randn(17, 2, DIM)
        expected = adapter(x, (4, 4))
        assert ht.accelerate(adapter).swapped
        torch.testing.assert_close(adapter(x, (4, 4)), expected, rtol=1e-5, atol=1e-5)


class Extra(SequenceFirstAdapter):
    def __init__(self) -> None:
        super().__init__(DIM, 8)
        self.scale = nn.Parameter(torch.ones(1))


class Other(SequenceFirstAdapter):
    def adapt(self, t: Tensor, hw_shapes: tuple[int, int] | None) -> Tensor:
        return 1.01 * super().adapt(t, hw_shapes)


def wide_kernel() -> nn.Module:
    adapter = SequenceFirstAdapter(DIM, 8)
    adapter.adapter_conv.conv3 = nn.Conv2d(8, 8, 9, padding=4, groups=8)
    return adapter


def replaced() -> nn.Module:
    adapter = SequenceFirstAdapter(DIM, 8)
    adapter.forward = lambda x, hw_shapes=None: x  # type: ignore[method-assign]
    return adapter


def replaced_inside() -> nn.Module:
    adapter = SequenceFirstAdapter(DIM, 8)
    adapter.adapter_conv.forward = adapter.adapter_conv.forward
    return adapter


def not_a_number() -> nn.Module:
    adapter = SequenceFirstAdapter(DIM, 8)
    adapter.gamma.data[0] = float("nan")
    return adapter


class OtherArguments(SequenceFirstAdapter):
    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        return super().forward(x, size)


class NoGrid(SequenceFirstAdapter):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, (4, 4))


def test_the_grid_may_have_another_name() -> None:
    adapter, x = OtherArguments(DIM, 8).eval(), torch.randn(17, 2, DIM)
    expected = adapter(x, (4, 4))
    assert len(ht.accelerate(adapter).swapped) == 1
    torch.testing.assert_close(adapter(x, (4, 4)), expected, rtol=1e-5, atol=1e-5)


class MoreDropout(SequenceFirstAdapter):
    def adapt(self, t: Tensor, hw_shapes: tuple[int, int] | None) -> Tensor:
        return super().adapt(F.dropout(t, 0.1, self.training), hw_shapes)


class DropoutBehind(SequenceFirstAdapter):
    def adapt(self, t: Tensor, hw_shapes: tuple[int, int] | None) -> Tensor:
        if not self.training:
            return super().adapt(t, hw_shapes)
        p, self.dropout.p = self.dropout.p, 0.0
        out = super().adapt(t, hw_shapes)
        self.dropout.p = p
        return t + self.dropout(out - t)


class TanhGelu(SequenceFirstAdapter):
    def adapt(self, t: Tensor, hw_shapes: tuple[int, int] | None) -> Tensor:
        exact, F.gelu = F.gelu, lambda m: exact(m, approximate="tanh")
        try:
            return super().adapt(t, hw_shapes)
        finally:
            F.gelu = exact


class OwnGrid(SequenceFirstAdapter):
    def adapt(self, t: Tensor, hw_shapes: tuple[int, int] | None) -> Tensor:
        return super().adapt(t, hw_shapes) if hw_shapes else super().adapt(t, (2, 4))


def with_buffer() -> nn.Module:
    adapter = SequenceFirstAdapter(DIM, 8)
    adapter.register_buffer("count", torch.zeros(1))
    return adapter


def low_rank() -> nn.Module:
    adapter = SequenceFirstAdapter(DIM, 8)
    adapter.project1 = nn.Sequential(adapter.project1)
    return adapter


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Extra, "scale is .1,., expected none"),
        (lambda: Other(DIM, 8), "computes something else"),
        (wide_kernel, r"adapter_conv.conv3.weight is \(8, 1, 9, 9\), expected \(8, 1, 7, 7\)"),
        (replaced, "its forward was replaced"),
        (with_buffer, "count is .1,., expected none"),
        (low_rank, "project1 of this one is a Sequential, not a Linear"),
        (replaced_inside, "its adapter_conv has a replaced forward"),
        (not_a_number, "not finite"),
        (lambda: NoGrid(DIM, 8), r"its forward takes \(x\), expected tokens and their patch grid"),
        (lambda: MoreDropout(DIM, 8), "computes something else"),
        (lambda: DropoutBehind(DIM, 8), "computes something else"),
        (lambda: TanhGelu(DIM, 8), "computes something else"),
        (lambda: OwnGrid(DIM, 8), "computes something else"),
        (lambda: SequenceFirstAdapter(DIM, 8).to("meta"), "no values yet"),
    ],
)
def test_what_is_left_and_why(make, reason: str) -> None:  # type: ignore[no-untyped-def]
    model = nn.ModuleDict({"good": Wrapper(SequenceFirstAdapter(DIM, 8)), "other": Wrapper(make())})
    kind = type(model["other"].clip_mona)
    report = ht.accelerate(model)
    assert [s.name for s in report.swapped] == ["good.clip_mona"]
    assert [left.name for left in report.left] == ["other.clip_mona"]
    assert re.search(reason, report.left[0].reason), report.left[0].reason
    assert type(model["other"].clip_mona) is kind
    assert "1 adapter swapped, 1 left as they were" in str(report) and report.left[0].reason in str(report)


WAYS = {
    "pruned": lambda part: prune.l1_unstructured(part, "weight", amount=0.5),
    "normalised": parametrizations.weight_norm,
    "normalised in the old way": weight_norm,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", FORMS)
def test_weights_that_are_computed_from_others(form: str, way: str, before: bool) -> None:
    def computed(model: nn.Module) -> nn.Module:
        for module in list(model.modules()):
            if hasattr(module, "gammax"):
                WAYS[way](module.project1)
                WAYS[way](module.adapter_conv.conv3)
        return model

    x, model, other = torch.randn(3, 3, 64, 64), build(form).eval(), computed(build(form).eval())
    if before:
        model = computed(model)
        model.encode_image(x)  # so that the weights have a graph, with which they cannot be copied
    report = ht.accelerate(model)
    assert len(report.swapped) == DEPTH and not report.left
    model = model if before else computed(model)
    expected, expected_grads = gradients(other, x)
    got, grads = gradients(model, x)
    assert relative_error(got, expected) < 1e-5 and grads.keys() == expected_grads.keys()
    total = sum(float(g.norm()) for g in expected_grads.values())
    for name, grad in grads.items():
        assert float((grad - expected_grads[name]).norm()) < 1e-4 * total, name
    for parameter in (*model.parameters(), *other.parameters()):
        parameter.data.mul_(1.1)
    with torch.no_grad():
        assert relative_error(model.encode_image(x), other.encode_image(x)) < 1e-5


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_hooks_inside_fire(form: str, before: bool) -> None:
    model, x, fired = build(form).eval(), torch.randn(2, 3, 64, 64), []
    expected, expected_grads = gradients(model, x)
    adapter = next(module for module in model.modules() if hasattr(module, "gammax"))

    def watch() -> list[Any]:
        return [
            adapter.project1.register_forward_hook(lambda *_: fired.append("forward")),
            adapter.adapter_conv.conv2.register_full_backward_hook(lambda *_: fired.append("backward")),
        ]

    handles = watch() if before else []
    assert len(ht.accelerate(model).swapped) == DEPTH and not fired
    handles = handles or watch()
    got, grads = gradients(model, x)
    assert fired == ["forward", "backward"] and relative_error(got, expected) < 1e-5
    total = sum(float(g.norm()) for g in expected_grads.values())
    for name, grad in grads.items():
        assert float((grad - expected_grads[name]).norm()) < 1e-4 * total, name
    for handle in handles:
        handle.remove()
    assert relative_error(gradients(model, x)[0], expected) < 1e-5 and len(fired) == 2


def test_low_rank_adaptation_behind_accelerate() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["project1", "project2"], init_lora_weights=False)
    model, other, x = build("timm").eval(), build("timm").eval(), torch.randn(2, 3, 64, 64)
    ht.accelerate(model)
    for each in (model, other):
        torch.manual_seed(3)
        peft.inject_adapter_in_model(config, each)
    expected, expected_grads = gradients(other, x)
    got, grads = gradients(model, x)
    assert relative_error(got, expected) < 1e-5 and grads.keys() == expected_grads.keys()
    assert any("lora_A" in name for name in grads)


def test_copies() -> None:
    model = build("openai").eval()
    ht.accelerate(model)
    adapter = model.visual.transformer.resblocks[0].mona
    x = torch.randn(17, 2, DIM)
    assert torch.equal(copy.deepcopy(adapter)(x, (4, 4)), adapter(x, (4, 4)))
    buffer = io.BytesIO()
    torch.save(adapter, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(x, (4, 4)), adapter(x, (4, 4)))


@pytest.mark.parametrize("form", FORMS)
def test_htclip_around_an_accelerated_model(form: str) -> None:
    clip = build(form)
    ht.accelerate(clip)
    model = ht.HTCLIP(clip, bottleneck=8, reduce_dim=16, feature_layers=(0, 3)).eval()
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(ht.fold(model)(x), model(x), rtol=0, atol=1e-4)
