"""The adapter with the LayerNorm of its result: by backends that write both, and by those that do not."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import ht_kernels as ht
from helpers import written_both
from helpers.adapters import random_adapter
from helpers.exports import folded_model, some_frames
from ht_kernels.backends import cuda
from ht_kernels.errors import BackendError
from ht_kernels.folding import FoldedAdapter, fold_adapter
from ht_kernels.functional import ht_adapter, ht_adapter_and_norm
from ht_kernels.ops import dispatch

GRID = (2, 3)


def weights() -> FoldedAdapter:
    return fold_adapter(random_adapter("hybrid", 16, 8).float()).map(Tensor.detach)


def both_right(got: tuple[Tensor, Tensor], x: Tensor, folded: FoldedAdapter) -> None:
    out, normed = got
    expected = ht_adapter(x, folded, GRID, backend="reference")
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(normed, F.layer_norm(expected, (16,), eps=1e-3))
    assert out.stride() == torch.empty_like(x).stride() and normed.is_contiguous()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2)])
def test_behind_the_adapter(backend: str, order: tuple[int, ...]) -> None:
    if backend not in ht.available_backends():
        pytest.skip(f"the {backend} backend is not here")
    folded, x = weights(), torch.randn(2, 7, 16).permute(order).contiguous().permute(order)
    with torch.no_grad():
        both_right(ht_adapter_and_norm(x, folded, GRID, norm_eps=1e-3, backend=backend), x, folded)


def test_gradients() -> None:
    """Both results have them, whichever backend runs."""
    folded, x = weights(), torch.randn(2, 7, 16)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    sum(t.square().sum() for t in ht_adapter_and_norm(ours, folded, GRID)).backward()  # type: ignore[union-attr]
    out = ht_adapter(theirs, folded, GRID, backend="reference")
    (out.square().sum() + F.layer_norm(out, (16,)).square().sum()).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gap", [0, 3, 8])
def test_at_once(monkeypatch: pytest.MonkeyPatch, gap: int) -> None:
    """One launch writes both, also where tokens lie apart, or as the kernels cannot read them."""
    asked: list[bool] = []
    written_both.install(monkeypatch, asked.append)
    folded, x = weights(), torch.randn(2, 7, 16 + gap)[..., :16]
    with torch.no_grad():
        both_right(ht_adapter_and_norm(x, folded, GRID, norm_eps=1e-3), x, folded)
        assert asked == [True]
        ht_adapter(x, folded, GRID)
        assert asked == [True, False]
        assert ht_adapter_and_norm(x[:0], folded, GRID)[1].shape == (0, 7, 16)
    assert len(asked) == 2


def test_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile keeps one call for both, and the operator says the truth of itself."""
    asked: list[bool] = []
    written_both.install(monkeypatch, asked.append)
    folded, x, graphs = weights(), torch.randn(2, 7, 16), []

    def keep(graph: torch.fx.GraphModule, inputs: object) -> torch.fx.GraphModule:
        graphs.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        return graph

    with torch.no_grad():
        compiled = torch.compile(
            lambda x: ht_adapter_and_norm(x, folded, GRID, norm_eps=1e-3), backend=keep, fullgraph=True
        )
        both_right(compiled(x), x, folded)
    assert asked == [True]
    assert sum("adapter_and_norm" in target for target in graphs[0]) == 1
    assert not any("layer_norm" in target for target in graphs[0])
    given = (x, *folded, *GRID, 1, 1e-5, 1e-3, False, None)
    torch.library.opcheck(torch.ops.ht_kernels.adapter_and_norm.default, given)


def test_a_refused_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next backend takes over, with torch's norm."""

    def refuse(*arguments: object) -> None:
        raise BackendError("no kernel image")

    written_both.install(monkeypatch)
    monkeypatch.setattr(cuda, "_launch", refuse)
    monkeypatch.setattr(dispatch.BACKENDS["triton"], "can_run", lambda case: "its interpreter is slow")
    monkeypatch.setattr(dispatch.choices, "retired", {})
    folded, x = weights(), torch.randn(2, 7, 16)
    with torch.no_grad():
        both_right(ht_adapter_and_norm(x, folded, GRID, norm_eps=1e-3), x, folded)
    assert [name for name, _ in dispatch.choices.retired] == ["cuda"]


def test_wrong_arguments() -> None:
    folded, x = weights(), torch.randn(2, 7, 16)
    with pytest.raises(ValueError, match="norm_eps must be a positive number, got 0"):
        ht_adapter_and_norm(x, folded, GRID, norm_eps=0)
    with pytest.raises(ValueError, match="grid must be two numbers"):
        ht_adapter_and_norm(x, folded, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="x has width 8"):
        ht_adapter_and_norm(x[..., :8], folded, GRID)


def test_a_folded_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its adapters write the norms that the next blocks begin with; the last one has no block behind it."""
    model = folded_model()
    frames = some_frames(model)
    with torch.no_grad():
        expected = copy.deepcopy(model)(frames)
        asked: list[bool] = []
        written_both.install(monkeypatch, asked.append)
        torch.testing.assert_close(model(frames), expected, rtol=1e-4, atol=1e-4)
    assert len(asked) == len(model.adapters) and asked == [True] * (len(model.blocks) - 1) + [False]
