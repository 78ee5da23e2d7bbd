"""The adapter on every backend that can run here, against the published mathematics in float64.

Tolerances are the design's: float32, relative L2 error of ``out - x`` at most 1e-5 and of gradients 1e-4; bfloat16, at
most 1.5 times the error of the published module run in bfloat16.
"""

from __future__ import annotations

import copy
import io
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ht_kernels as ht
from helpers.adapters import GOLDEN, random_adapter, read_golden, relative_error, run_adapter
from ht_kernels.backends import core
from ht_kernels.backends.call import Case
from ht_kernels.errors import BackendError
from ht_kernels.folding import MATRICES, FoldedAdapter, fold_adapter
from ht_kernels.functional import dynamic_depthwise, ht_adapter
from ht_kernels.ops import dispatch
from ht_kernels.ops.dispatch import BACKENDS
from ht_kernels.published import VARIANTS

CPU = torch.device("cpu")
GRIDS = [(5, 9), (7, 7), (14, 14), (16, 16), (24, 24), (37, 37), (64, 64), (1, 1), (1, 8), (9, 2), (3, 64), (64, 3)]
SWIN = {96: 56, 192: 28, 384: 14, 768: 7, 1536: 7}
"""The sides of the grids in Swin-T's stages and in Swin-L's last, by width."""


NAMES = ("cpu", "reference")  # of the backends that can run here; the others: test_cuda.py, test_triton.py


@pytest.fixture(params=NAMES)
def backend(request: pytest.FixtureRequest) -> str:
    reason = BACKENDS[request.param].can_run(Case(CPU, torch.float32, 768, 64, (14, 14), 1, True))
    if reason is not None:
        pytest.skip(reason)
    return str(request.param)


def to_float32(adapter: torch.nn.Module, variant: str) -> ht.HTAdapter:
    bottleneck, dim = adapter.project1.weight.shape
    ours = ht.HTAdapter(dim, bottleneck, variant).eval()
    ours.load_state_dict(adapter.state_dict())
    return ours


def run(adapter: torch.nn.Module, x: Tensor, grid: tuple[int, int], prefix: int, grad: Tensor) -> dict[str, Tensor]:
    """``out - x``, all gradients and what they come from, in float64."""
    return {**run_adapter(adapter, x, grid, prefix, grad), "grad_out": grad.double()}


def compare(got: dict[str, Tensor], expected: dict[str, Tensor], out: float = 1e-5, grads: float = 1e-4) -> None:
    grad_out = float(got["grad_out"].norm())
    got, expected = ({name: t for name, t in results.items() if name != "grad_out"} for results in (got, expected))
    assert got.keys() == expected.keys()
    scale = max(float(t.norm()) for name, t in expected.items() if name not in ("out", "x"))
    for name, tensor in expected.items():
        if name == "out":
            assert relative_error(got[name], tensor) <= out
        elif name == "x":  # the sum of grad_out and the adapter's part, which may cancel
            assert float((got[name] - tensor).norm()) <= grads * max(float(tensor.norm()), grad_out)
        else:  # the smallest are differences of larger ones
            assert float((got[name] - tensor).norm()) <= grads * max(float(tensor.norm()), 3e-3 * scale), name


def check(backend: str, variant: str, shape: tuple[int, int, int, int], grid: tuple[int, int], seed: int = 0) -> None:
    batch, dim, bottleneck, prefix = shape
    adapter = random_adapter(variant, dim, bottleneck, seed)
    x = torch.randn(batch, prefix + grid[0] * grid[1], dim)
    grad = torch.randn_like(x)
    ours = to_float32(adapter, variant)
    double = copy.deepcopy(ours).double()
    exact = random_adapter(variant, dim, bottleneck, seed)
    exact.load_state_dict(double.state_dict())  # what float32 made of the parameters
    ht.set_backend(backend)
    try:
        got = run(ours, x, grid, prefix, grad)
    finally:
        ht.set_backend(None)
    compare(got, run(exact, x.double(), grid, prefix, grad))


def test_the_compiled_core_is_built() -> None:
    assert "cpu" in ht.available_backends(), core.missing


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(backend: str, name: str) -> None:
    adapter, grid, prefix, tensors = read_golden(name)
    ours = to_float32(adapter, name.removeprefix("adapter_").rsplit("_", 1)[0])
    ht.set_backend(backend)
    try:
        got = run(ours, tensors["x"].float(), grid, prefix, tensors["grad_out"])
    finally:
        ht.set_backend(None)
    expected = {"out": tensors["out"] - tensors["x"], "x": tensors["grad_x"]}
    compare(got, expected | {key[5:]: value for key, value in tensors.items() if key.startswith("grad.")})


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("grid", GRIDS)
def test_grids(backend: str, variant: str, grid: tuple[int, int]) -> None:
    check(backend, variant, (2, 48, 16, 1), grid)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_vit_b_16(backend: str, batch: int) -> None:
    check(backend, "hybrid", (batch, 768, 64, 1), (14, 14))


@pytest.mark.parametrize("dim", SWIN)
def test_mona_in_swin(backend: str, dim: int) -> None:
    check(backend, "baseline", (1, dim, 64, 0), (SWIN[dim], SWIN[dim]))


@settings(max_examples=40, deadline=None)
@given(
    variant=st.sampled_from(sorted(VARIANTS)),
    batch=st.integers(1, 5),
    dim=st.sampled_from((1, 2, 7, 16, 24, 33, 100, 192)),
    bottleneck=st.sampled_from((4, 5, 8, 20, 64, 96, 100)),
    prefix=st.integers(0, 5),
    height=st.integers(1, 18),
    width=st.integers(1, 18),
    seed=st.integers(0, 999),
)
def test_any_shape(
    variant: str, batch: int, dim: int, bottleneck: int, prefix: int, height: int, width: int, seed: int
) -> None:
    if dim == 1:  # a LayerNorm over one value is all cancellation
        variant = "baseline"
    for name in NAMES:
        check(name, variant, (batch, dim, bottleneck, prefix), (height, width), seed)


def outputs(backend: str, x: Tensor, prefix: int = 1, grid: tuple[int, int] = (3, 4), **options: object) -> Tensor:
    folded = fold_adapter(random_adapter("hybrid", x.shape[2], 8).float())
    with torch.no_grad():
        return ht_adapter(x, folded, grid, prefix, backend=backend, **options)  # type: ignore[arg-type]


def outputs_of(folded: FoldedAdapter, x: Tensor, backend: str) -> Tensor:
    with torch.no_grad():
        return ht_adapter(x, folded, (3, 4), backend=backend)


def layouts(x: Tensor) -> dict[str, Tensor]:
    """The values of ``x`` in other memory orders."""
    batch, tokens, dim = x.shape
    wide = torch.zeros(batch, tokens + 3, dim + 5)
    wide[:, 2 : 2 + tokens, 3 : 3 + dim] = x
    return {
        "sequence first": x.transpose(0, 1).contiguous().transpose(0, 1),
        "a part of a larger tensor": wide[:, 2 : 2 + tokens, 3 : 3 + dim],
        "channels first": x.transpose(1, 2).contiguous().transpose(1, 2),
        "every other": torch.stack([x, x], -1).flatten(2)[..., ::2],
    }


@pytest.mark.parametrize("layout", layouts(torch.zeros(1, 1, 1)))
def test_strides(backend: str, layout: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 13, 20)
    strided = layouts(x)[layout]
    assert torch.equal(strided, x)
    got = outputs(backend, strided)
    torch.testing.assert_close(got, outputs(backend, x), rtol=1e-5, atol=1e-6)
    assert got.stride() == torch.empty_like(strided).stride() and torch.equal(strided, x)
    adapter = random_adapter("hybrid", 20, 8).float()
    ours = to_float32(adapter, "hybrid")
    ht.set_backend(backend)
    try:
        grad = torch.randn_like(x)
        plain, other = run(ours, x, (3, 4), 1, grad), run(ours, strided, (3, 4), 1, layouts(grad)[layout])
    finally:
        ht.set_backend(None)
    for name, tensor in plain.items():
        assert relative_error(other[name], tensor) < 1e-5, name


def test_an_expanded_batch(backend: str) -> None:
    x = torch.randn(1, 13, 20).expand(4, -1, -1)
    got = outputs(backend, x)
    for i in range(4):
        torch.testing.assert_close(got[i], outputs(backend, x[:1])[0], rtol=1e-5, atol=1e-6)


def test_empty_batch(backend: str) -> None:
    assert outputs(backend, torch.randn(0, 13, 20)).shape == (0, 13, 20)
    ours = to_float32(random_adapter("hybrid", 20, 8), "hybrid")
    ht.set_backend(backend)
    try:
        ours(torch.randn(0, 13, 20, requires_grad=True), (3, 4)).sum().backward()
    finally:
        ht.set_backend(None)
    assert ours.project1.weight.grad is not None and not ours.project1.weight.grad.any()


def test_outlier_channels(backend: str) -> None:
    """CLIP residual streams have channels 50 times larger than the rest, and a mean."""
    torch.manual_seed(0)
    x = torch.randn(2, 13, 64) + 0.5
    x[..., 5] = x[..., 5] * 50 + 300
    exact = random_adapter("hybrid", 64, 8).float().double()
    got = outputs(backend, x)
    expected = exact(x.double(), (3, 4)) - x
    assert relative_error(got.double() - x, expected) <= 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16(backend: str, variant: str) -> None:
    adapter = random_adapter(variant, 192, 64).bfloat16()
    x = torch.randn(2, 1 + 14 * 14, 192).bfloat16()
    grad = torch.randn_like(x)
    exact = run(copy.deepcopy(adapter).double(), x.double(), (14, 14), 1, grad)
    published = run(adapter, x, (14, 14), 1, grad) if variant in ("baseline", "noise_aware") else None
    ours = ht.HTAdapter(192, 64, variant).bfloat16().eval()
    ours.load_state_dict(adapter.state_dict())
    ht.set_backend(backend)
    try:
        got = run(ours, x, (14, 14), 1, grad)
    finally:
        ht.set_backend(None)
    for name in ("out", "x"):
        # torch has no Fourier transform in bfloat16, so those variants are held to rounding: 2^-8 of the output.
        size = float((exact[name] + (x.double() if name == "out" else 0)).norm() / exact[name].norm())
        allowed = 1.5 * relative_error(published[name], exact[name]) if published else 2**-8 * size
        assert relative_error(got[name], exact[name]) <= allowed, name


def test_dropout_factors(backend: str) -> None:
    torch.manual_seed(0)
    exact = fold_adapter(random_adapter("hybrid", 40, 8).float().double())
    folded = FoldedAdapter(*(None if t is None else t.float().detach() for t in exact))
    x, keep = torch.randn(3, 13, 40), (torch.rand(3, 13, 8) > 0.3) / 0.7
    got = ht_adapter(x, folded, (3, 4), keep=keep, backend=backend)
    expected = ht_adapter(x.double(), exact, (3, 4), keep=keep.double(), backend="reference")
    assert relative_error(got - x, expected - x) <= 1e-5
    assert relative_error(outputs(backend, x) - x, expected - x) > 1e-2


def test_training_drops_and_evaluation_does_not(backend: str) -> None:
    adapter = ht.HTAdapter(40, 8, dropout=0.5)
    x = torch.randn(2, 13, 40)
    ht.set_backend(backend)
    try:
        with torch.no_grad():
            assert not torch.equal(adapter(x, (3, 4)), adapter(x, (3, 4)))
            torch.manual_seed(1)
            first = adapter(x, (3, 4))
            torch.manual_seed(1)
            assert torch.equal(first, adapter(x, (3, 4)))
            adapter.eval()
            plain = adapter(x, (3, 4))
            assert torch.equal(plain, adapter(x, (3, 4)))
            adapter.train()
            mean = adapter(x.repeat(2000, 1, 1), (3, 4)).view(2000, *x.shape).mean(0)  # each has masks of its own
    finally:
        ht.set_backend(None)
    # The up projection is linear, so the mean over masks is the result without dropout.
    assert relative_error(mean - x, plain - x) < 0.1


def test_other_images_and_nan(backend: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 13, 20)
    clean = outputs(backend, x)
    x[1, 7, 3] = float("nan")
    got = outputs(backend, x)
    assert torch.equal(got[0], clean[0]) and torch.equal(got[2], clean[2])
    assert got[1].isnan().any()
    assert got[1, 7].isnan().all()


def test_every_element_is_written(backend: str) -> None:
    torch.use_deterministic_algorithms(True)  # new memory is then filled with NaN
    try:
        for shape, grid in (((2, 198, 100), (14, 14)), ((3, 10, 7), (2, 4)), ((1, 1371, 24), (37, 37))):
            x = torch.randn(shape, requires_grad=True)
            ours = to_float32(random_adapter("hybrid", shape[2], 12), "hybrid")
            ht.set_backend(backend)
            out = ours(x, grid, shape[1] - grid[0] * grid[1])
            out.sum().backward()
            assert out.isfinite().all() and x.grad is not None and x.grad.isfinite().all()
            assert all(p.grad is not None and p.grad.isfinite().all() for p in ours.parameters())
    finally:
        ht.set_backend(None)
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_same_bits_run_after_run(backend: str, batch: int) -> None:
    ours = to_float32(random_adapter("hybrid", 768, 64), "hybrid")
    x, grad = torch.randn(batch, 197, 768), torch.randn(batch, 197, 768)
    ht.set_backend(backend)
    try:
        first = run(ours, x, (14, 14), 1, grad)
        for _ in range(3):
            again = run(ours, x, (14, 14), 1, grad)
            assert all(torch.equal(first[name], again[name]) for name in first)
    finally:
        ht.set_backend(None)


def test_thread_counts_agree(backend: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 197, 192)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(outputs(backend, x, grid=(14, 14)))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-5, atol=1e-5)


def test_gradients_of_some_inputs_only(backend: str) -> None:
    ours = to_float32(random_adapter("hybrid", 24, 8), "hybrid")
    x, grad = torch.randn(2, 13, 24), torch.randn(2, 13, 24)
    ht.set_backend(backend)
    try:
        full = run(ours, x, (3, 4), 1, grad)
        ours.zero_grad()
        ours.requires_grad_(False)
        leaf = x.clone().requires_grad_()
        ours(leaf, (3, 4)).backward(grad)
        assert leaf.grad is not None and relative_error(leaf.grad, full["x"]) < 1e-6
        assert all(p.grad is None for p in ours.parameters())
        ours.adapter_conv.conv2.weight.requires_grad_(True)
        ours(x, (3, 4)).backward(grad)
        weight = ours.adapter_conv.conv2.weight
        assert weight.grad is not None and relative_error(weight.grad, full["adapter_conv.conv2.weight"]) < 1e-5
        assert ours.project1.weight.grad is None
    finally:
        ht.set_backend(None)


def test_gradcheck_of_the_reference() -> None:
    folded = fold_adapter(random_adapter("hybrid", 6, 4))
    weights = [None if t is None else t.detach().requires_grad_() for t in folded]
    present = [t for t in weights if t is not None]

    def function(x: Tensor, *given: Tensor) -> Tensor:
        rest = iter(given)
        return ht_adapter(x, FoldedAdapter(*(None if t is None else next(rest) for t in weights)), (2, 3), 1)

    x = torch.randn(2, 7, 6).double().requires_grad_()
    assert torch.autograd.gradcheck(function, (x, *present), fast_mode=True)


def test_no_second_derivative_on_compiled_kernels() -> None:
    ours, x = to_float32(random_adapter("baseline", 8, 4), "baseline"), torch.randn(1, 5, 8, requires_grad=True)
    ht.set_backend("cpu")
    try:
        (grad,) = torch.autograd.grad(ours(x, (2, 2)).sum(), x, create_graph=True)
        with pytest.raises(NotImplementedError, match="second derivative"):
            grad.sum().backward()
    finally:
        ht.set_backend(None)


def test_opcheck() -> None:
    op = torch.ops.ht_kernels.adapter.default
    for variant in ("baseline", "hybrid"):
        folded = fold_adapter(random_adapter(variant, 20, 8).float())
        weights = [None if t is None else t.detach().requires_grad_() for t in folded]
        for x in (torch.randn(2, 13, 20, requires_grad=True), torch.randn(13, 2, 20).transpose(0, 1)):
            for keep in (None, torch.ones(2, 13, 8)):
                how = (keep, None, 0.0, torch.float32, 3, 4, 1, 1e-5)
                torch.library.opcheck(op, (x, *weights, *how, False, True, "cpu", True))
        plain = [None if t is None else t.detach() for t in (x, *weights)]
        torch.library.opcheck(op, (*plain, None, *how[1:], False, False, "cpu", True))


@pytest.mark.parametrize("training", [False, True])
def test_compiles_without_graph_breaks(backend: str, training: bool) -> None:
    torch.compiler.reset()
    ours = to_float32(random_adapter("hybrid", 20, 8), "hybrid")
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    x, grad = torch.randn(2, 13, 20), torch.randn(2, 13, 20)
    ht.set_backend(backend)
    try:
        if not training:
            with torch.no_grad():
                torch.testing.assert_close(compiled(x, (3, 4)), ours(x, (3, 4)), rtol=1e-5, atol=1e-6)
            return
        expected = run(ours, x, (3, 4), 1, grad)
        leaf = x.clone().requires_grad_()
        ours.zero_grad()
        compiled(leaf, (3, 4), 1).backward(grad)
    finally:
        ht.set_backend(None)
    assert leaf.grad is not None and relative_error(leaf.grad, expected["x"]) < 1e-5
    assert relative_error(ours.project1.weight.grad, expected["project1.weight"]) < 1e-5  # type: ignore[arg-type]


def test_exports(backend: str) -> None:
    ours = to_float32(random_adapter("hybrid", 20, 8), "hybrid")
    ht.set_backend(backend)
    try:
        batch = torch.export.Dim("batch", min=2)
        program = torch.export.export(ours, (torch.randn(2, 13, 20), (3, 4)), dynamic_shapes=({0: batch}, (None, None)))
        x = torch.randn(5, 13, 20)
        torch.testing.assert_close(program.module()(x, (3, 4)), ours(x, (3, 4)), rtol=1e-5, atol=1e-6)
        names = {str(node.target) for node in program.graph.nodes}
        assert ("ht_kernels.adapter.default" in names) == (backend != "reference")
    finally:
        ht.set_backend(None)


def test_functional_transforms() -> None:
    ours = to_float32(random_adapter("hybrid", 20, 8), "hybrid")
    x = torch.randn(2, 13, 20)

    def loss(values: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(ours, values, (x, (3, 4))).square().sum()

    grads = torch.func.grad(loss)(dict(ours.named_parameters()))
    ours(x, (3, 4)).square().sum().backward()
    for name, parameter in ours.named_parameters():
        assert relative_error(grads[name], parameter.grad) < 1e-5, name  # type: ignore[arg-type]


def test_copies(backend: str) -> None:
    ours = to_float32(random_adapter("hybrid", 20, 8), "hybrid")
    x = torch.randn(2, 13, 20)
    ht.set_backend(backend)
    try:
        with torch.no_grad():
            expected = ours(x, (3, 4))
            assert torch.equal(copy.deepcopy(ours)(x, (3, 4)), expected)
            assert torch.equal(pickle.loads(pickle.dumps(ours))(x, (3, 4)), expected)
            buffer = io.BytesIO()
            torch.save(ours.state_dict(), buffer)
            buffer.seek(0)
            other = ht.HTAdapter(20, 8).eval()
            other.load_state_dict(torch.load(buffer, weights_only=True))
            assert torch.equal(other(x, (3, 4)), expected)
    finally:
        ht.set_backend(None)


def test_folded_weights_follow_the_parameters() -> None:
    """Whatever changes a parameter, the next call uses it."""
    torch.manual_seed(0)
    ours, x = ht.HTAdapter(20, 8).eval(), torch.randn(2, 13, 20)

    def current() -> None:
        with torch.no_grad():
            got = ours(x, (3, 4))
            expected = ht_adapter(x, fold_adapter(ours), (3, 4))
        assert torch.equal(got, expected)
        assert not any(torch.equal(got, other) for other in seen)
        seen.append(got)

    seen: list[Tensor] = []
    current()
    with torch.no_grad():
        ours.project1.weight.add_(0.1)
    current()
    optimizer = torch.optim.AdamW(ours.parameters(), lr=0.1)
    ours(x, (3, 4)).square().sum().backward()
    optimizer.step()
    current()
    ours.load_state_dict(ht.HTAdapter(20, 8).state_dict())
    current()
    ours.gamma.data = ours.gamma.data + 1
    current()
    ours.adapter_conv.conv3.weight = torch.nn.Parameter(torch.randn(8, 1, 7, 7))
    current()
    ours.project2.weight.data.mul_(2)
    ours.eval()
    current()
    ours.double().float().project2.bias.data.fill_(3)
    current()
    with torch.inference_mode():
        inferred = ht.HTAdapter(20, 8).eval()
        first = inferred(x, (3, 4))
        inferred.project2.weight.add_(1)
        assert not torch.equal(inferred(x, (3, 4)), first)


X, FOLDED = torch.zeros(2, 13, 20), fold_adapter(random_adapter("hybrid", 20, 8).float())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(13, 20)}, ValueError, r"x must have shape \(batch, tokens, dim\), got \(13, 20\)"),
        ({"x": X.int()}, TypeError, "x must be float32.*got torch.int32"),
        ({"x": torch.zeros(2, 13, 21)}, ValueError, "x has width 21, but the adapter was made for 20"),
        ({"grid": (4, 4)}, ValueError, "x has 13 tokens, but prefix_tokens 1 . grid 4x4 makes 17"),
        ({"grid": (0, 12)}, ValueError, "grid must be positive"),
        ({"prefix_tokens": -1}, ValueError, "not negative"),
        ({"keep": torch.ones(2, 13, 9)}, ValueError, r"keep must have shape \(2, 13, 8\), got \(2, 13, 9\)"),
        ({"keep": torch.ones(2, 13, 8, device="meta")}, ValueError, "keep is on meta, but x is on cpu"),
        ({"dropout": 1.5}, ValueError, "dropout must be a probability, from 0 to 1, got 1.5"),
        ({"dropout": -0.1}, ValueError, "dropout must be a probability, from 0 to 1, got -0.1"),
        ({"dropout": math.nan}, ValueError, "dropout must be a probability, from 0 to 1, got nan"),
        ({"eps": 0.0}, ValueError, "eps must be a positive number, got 0.0"),
        ({"eps": -1e-5}, ValueError, "eps must be a positive number, got -1e-05"),
        ({"eps": math.inf}, ValueError, "eps must be a positive number, got inf"),
        ({"eps": math.nan}, ValueError, "eps must be a positive number, got nan"),
        ({"x": X.double()}, TypeError, "folded.down_weight must be torch.float64 for this x, got torch.float32"),
        ({"x": X.to("meta")}, ValueError, "folded.down_weight is on cpu, but x is on meta"),
        ({"folded": FOLDED._replace(up_bias=torch.zeros(3))}, ValueError, r"folded.up_bias must have shape \(20,\)"),
        ({"folded": FOLDED._replace(score_weight=None)}, ValueError, "folded.score_weight must have shape"),
        ({"backend": "gpu"}, ValueError, f"unknown backend 'gpu', expected one of {', '.join(BACKENDS)}"),
        ({"backend": ""}, ValueError, "unknown backend '', expected one of"),
    ],
)
def test_wrong_arguments(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments: dict[str, object] = {"x": X, "folded": FOLDED, "grid": (3, 4), "prefix_tokens": 1}
    with pytest.raises(error, match=message):
        ht_adapter(**{**arguments, **change})  # type: ignore[arg-type]


DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.uint8, torch.bool)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_dtype_of_dropout_factors(backend: str, dtype: torch.dtype) -> None:
    """Kernels read the factors through an address, so only the dtype that they read may pass."""
    keep = torch.ones(2, 13, 8, dtype=dtype)
    for x in (X, X.bfloat16()):
        if dtype == torch.float32:
            assert ht_adapter(x, FOLDED, (3, 4), keep=keep, backend=backend).dtype == x.dtype
        else:
            with pytest.raises(TypeError, match=f"keep must be torch.float32 for this x, got {dtype}"):
                ht_adapter(x, FOLDED, (3, 4), keep=keep, backend=backend)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FoldedAdapter._fields[:-1])  # all but the mask, which FOLDED does not have
def test_the_dtypes_of_weights(backend: str, name: str, dtype: torch.dtype) -> None:
    """Of the weights, only the matrices may also be in the dtype of x."""
    folded = FOLDED._replace(**{name: getattr(FOLDED, name).to(dtype)})
    for x in (X, X.bfloat16()):
        if dtype == torch.float32 or (dtype == x.dtype and name in MATRICES):
            assert outputs_of(folded, x, backend).dtype == x.dtype
        else:
            with pytest.raises(TypeError, match=f"folded.{name} must be torch.float32 for this x, got {dtype}"):
                outputs_of(folded, x, backend)


def test_wrong_modules() -> None:
    with pytest.raises(ValueError, match="unknown variant 'hybird', expected one of baseline"):
        ht.HTAdapter(8, 4, "hybird")
    with pytest.raises(ValueError, match="too small"):
        ht.HTAdapter(8, 3, "hybrid")


def test_a_backend_asked_for_by_name_never_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    folded = fold_adapter(random_adapter("hybrid", 20, 8))
    with pytest.raises(RuntimeError, match=r"'cpu' was asked for by name.*x is torch.float64"):
        ht_adapter(X.double(), folded, (3, 4), backend="cpu")
    for name, message in (("cpu", "asked for by name"), ("none", "unknown backend 'none'")):
        monkeypatch.setenv("HT_KERNELS_BACKEND", name)
        monkeypatch.setattr(dispatch, "choices", dispatch.Choices())  # as in a process that starts so
        with pytest.raises((BackendError, ValueError), match=message):
            ht_adapter(X.double(), folded, (3, 4))
    with pytest.raises(ValueError, match="unknown backend 'none' in HT_KERNELS_BACKEND, expected"):
        ht_adapter(X.double(), folded, (3, 4))
    with pytest.raises(ValueError, match="unknown backend 'none', expected"):  # by the caller, not by the environment
        ht_adapter(X.double(), folded, (3, 4), backend="none")
    monkeypatch.undo()
    assert dispatch.choose(Case(CPU, torch.float64, 20, 8, (3, 4), 1, False)) == "reference"


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "avx512_bf16", "avx2_bf16"])
def test_every_instruction_set(isa: str, tmp_path: Path) -> None:
    """One source, several compilations: each that this machine can run agrees with the reference."""
    core = pytest.importorskip("ht_kernels._C")
    if isa not in core.build_info()["isa_levels"]:
        pytest.skip(f"{isa} was not compiled in")
    code = """
import torch
from helpers.adapters import random_adapter, relative_error
import ht_kernels as ht
from ht_kernels import _C
ours = ht.HTAdapter(100, 20).eval()
ours.load_state_dict(random_adapter("hybrid", 100, 20).state_dict())
torch.manual_seed(0)
x = torch.randn(3, 65, 100)
results = {}
for backend in ("cpu", "reference"):
    ht.set_backend(backend)
    ours.zero_grad()
    out = ours(x, (8, 8))
    out.square().sum().backward()
    results[backend] = [out - x] + [p.grad for p in ours.parameters()]
print(_C.cpu_isa(), max(relative_error(a, b) for a, b in zip(*results.values())))
"""
    # Elsewhere than in the checkout, whose own ht_kernels would hide the installed one.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HT_KERNELS_CPU": isa}
    arguments = [sys.executable, "-c", code]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, cwd=tmp_path, check=True)
    used, error = done.stdout.split()
    if used != isa:
        assert f"HT_KERNELS_CPU is '{isa}'" in done.stderr
        pytest.skip(f"this machine has no {isa}")
    assert float(error) < 1e-4


def test_dynamic_depthwise() -> None:
    torch.manual_seed(0)
    s, kernels, bias = torch.randn(2, 3, 5, 6).double(), torch.randn(2, 3, 7, 7).double(), torch.randn(2, 3).double()
    padded = torch.nn.functional.pad(s, (3, 3, 3, 3))
    expected = torch.zeros_like(s)
    for i in range(5):
        for j in range(6):
            expected[..., i, j] = (padded[..., i : i + 7, j : j + 7] * kernels).sum((-2, -1)) + bias
    torch.testing.assert_close(dynamic_depthwise(s, kernels, bias), expected, rtol=0, atol=1e-12)
    assert dynamic_depthwise(s[:0], kernels[:0], bias[:0]).shape == (0, 3, 5, 6)
    with pytest.raises(ValueError, match="kernels must have shape"):
        dynamic_depthwise(s, kernels[..., :6], bias)
    with pytest.raises(ValueError, match="bias must have shape"):
        dynamic_depthwise(s, kernels, bias[0])
    with pytest.raises(ValueError, match=r"kernels must have shape .*, got \(\)"):
        dynamic_depthwise(s, kernels.sum(), bias)
    with pytest.raises(TypeError, match=r"s must be float32.*got torch.int32"):
        dynamic_depthwise(s.int(), kernels.int(), bias.int())
    for wrong in ((s, kernels.float(), bias), (s, kernels, bias.float())):
        with pytest.raises(TypeError, match=r"must be torch.float64, the dtype of s, got torch.float32"):
            dynamic_depthwise(*wrong)
    for wrong in ((s, kernels.to("meta"), bias), (s, kernels, bias.to("meta"))):
        with pytest.raises(ValueError, match="is on meta, but s is on cpu"):
            dynamic_depthwise(*wrong)
