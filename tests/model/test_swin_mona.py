"""accelerate on Mona in a Swin transformer: the adapter that Hybrid-tuning grew from, without prefix tokens."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

import ht_kernels as ht
from helpers.adapters import relative_error
from helpers.mona_swin import Mona, swin_with_mona
from ht_kernels.clip.mona import BatchFirstAdapter

pytestmark = pytest.mark.usefixtures("one_thread")


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 56, 56, generator=torch.Generator().manual_seed(1))


def gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    out = model(x)
    out.square().sum().backward()
    return out.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_every_adapter_is_recognised_and_results_stay() -> None:
    model = swin_with_mona().eval()
    adapters = [name for name, module in model.named_modules() if isinstance(module, Mona)]
    parameters, state = list(model.parameters()), model.state_dict()
    x = images().requires_grad_()
    expected, expected_grads = gradients(model, x)
    expected_x, x.grad = x.grad, None

    report = ht.accelerate(model)
    assert len(adapters) == 8 and [s.name for s in report.swapped] == adapters
    assert {(s.variant, s.dim, s.bottleneck) for s in report.swapped} == {("baseline", 16, 8), ("baseline", 32, 8)}
    assert not report.left and not report.whole
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == list(state)
    model.load_state_dict(swin_with_mona().state_dict())  # the same values, from a model as it was

    got, grads = gradients(model, x)
    assert relative_error(got, expected) < 1e-5 and relative_error(x.grad, expected_x) < 1e-4
    assert grads.keys() == expected_grads.keys() and all("mona" in name for name in grads)
    total = sum(float(g.norm()) for g in expected_grads.values())
    for name, grad in grads.items():
        assert float((grad - expected_grads[name]).norm()) < 1e-4 * total, name
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_a_training_step_is_the_same() -> None:
    trained = []
    for fast in (False, True):
        model = swin_with_mona().train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
        if fast:
            assert len(ht.accelerate(model).swapped) == 8
        for _ in range(2):
            model(images()).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            trained.append(model.eval()(images()))
    torch.testing.assert_close(*trained, rtol=1e-4, atol=1e-5)


def test_copies() -> None:
    model = swin_with_mona().eval()
    ht.accelerate(model)
    kept, x = copy.deepcopy(model), images(1)
    with torch.no_grad():
        expected = kept(x)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(0.5)
        assert not torch.allclose(model(x), expected)
        assert torch.equal(kept(x), expected) and torch.equal(copy.deepcopy(kept)(x), expected)
    buffer = io.BytesIO()
    torch.save(kept, buffer)
    buffer.seek(0)
    with torch.no_grad():
        assert torch.equal(torch.load(buffer, weights_only=False)(x), expected)


def test_grid_and_errors_stay() -> None:
    adapter = Mona(16, 8).eval()
    x, wide = torch.randn(2, 15, 16), torch.randn(2, 16, 16)
    expected = adapter(x, (3, 5))
    assert len(ht.accelerate(adapter).swapped) == 1 and isinstance(adapter, BatchFirstAdapter)
    for grid in ((3, 5), [3, 5], torch.Size((3, 5))):
        torch.testing.assert_close(adapter(x, grid), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="x has 16 tokens, but prefix_tokens 0 \\+ grid 3x5 makes 15"):
        adapter(wide, (3, 5))


class OneBefore(Mona):
    """Mona with one token before its grid, as in a ViT, with the grid and without it."""

    def forward(self, x: Tensor, hw_shapes: tuple[int, int] | None = None) -> Tensor:
        side = int((x.shape[1] - 1) ** 0.5)
        h = self.project1(self.norm(x) * self.gamma + x * self.gammax)
        image = self.adapter_conv(h[:, 1:].transpose(1, 2).unflatten(2, hw_shapes or (side, side)))
        h = torch.cat([h[:, :1], image.flatten(2).transpose(1, 2)], 1)
        return x + self.project2(self.dropout(nn.functional.gelu(h)))


class Square(Mona):
    """Mona that takes a square if no grid is given."""

    def forward(self, x: Tensor, hw_shapes: tuple[int, int] | None = None) -> Tensor:
        side = int(x.shape[1] ** 0.5)
        return super().forward(x, hw_shapes or (side, side))


class AnyNumber(OneBefore):
    """One token before the grid or none, whichever fits."""

    def forward(self, x: Tensor, hw_shapes: tuple[int, int] | None = None) -> Tensor:
        fits = hw_shapes is not None and x.shape[1] == hw_shapes[0] * hw_shapes[1]
        return Mona.forward(self, x, hw_shapes) if fits else super().forward(x, hw_shapes)


@pytest.mark.parametrize(
    ("kind", "prefix_tokens", "calls"),
    [
        (Mona, 0, [(12, (3, 4))]),
        (Square, 0, [(12, (3, 4)), (16, None)]),
        (OneBefore, 1, [(13, (3, 4)), (17, None)]),
    ],
)
def test_prefix_tokens_are_found_by_trial(
    kind: type[Mona], prefix_tokens: int, calls: list[tuple[int, tuple[int, int] | None]]
) -> None:
    torch.manual_seed(0)
    adapter = kind(16, 8).eval()
    tokens = [torch.randn(2, count, 16) for count, _ in calls]
    expected = [adapter(x, grid) for x, (_, grid) in zip(tokens, calls, strict=True)]
    assert len(ht.accelerate(adapter).swapped) == 1 and adapter.prefix_tokens == prefix_tokens
    for x, (_, grid), out in zip(tokens, calls, expected, strict=True):
        torch.testing.assert_close(adapter(x, grid), out, rtol=1e-5, atol=1e-5)


def test_an_adapter_that_takes_any_number_is_left() -> None:
    report = ht.accelerate(AnyNumber(16, 8))
    assert not report.swapped and "in an order or number that is not known" in report.left[0].reason
