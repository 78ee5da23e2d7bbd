"""Training by the Triton backend: gradients, dropout and PyTorch's training tools, in the interpreter without a GPU."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import ht_kernels as ht
from helpers.adapters import harness_adapter, random_adapter, random_tokens, relative_error, run_adapter
from ht_kernels.errors import BackendError
from ht_kernels.folding import FoldedAdapter, fold_adapter
from ht_kernels.functional import ht_adapter

compiler = pytest.importorskip("triton")
from ht_kernels.backends.triton.kernels.depthwise_backward import depthwise_backward  # noqa: E402
from ht_kernels.backends.triton.kernels.down_project import down_project  # noqa: E402
from ht_kernels.backends.triton.kernels.down_project_backward import down_project_backward  # noqa: E402
from ht_kernels.backends.triton.kernels.mix_and_up_project import mix_and_up_project  # noqa: E402
from ht_kernels.backends.triton.kernels.mix_and_up_project_backward import mix_and_up_project_backward  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BY_TRITON = (False, True, "triton", True)
"""No autocast, with gradients, and the backend by name."""

SHAPES = {  # batch, dim, bottleneck, grid, prefix tokens
    "odd": (2, 40, 24, (5, 4), 4),
    "no_prefix": (1, 37, 10, (3, 4), 0),
    "one_patch": (1, 16, 8, (1, 1), 1),
    "two_tiles": (1, 20, 18, (3, 6), 2),
    "two_images": (2, 16, 8, (2, 2), 1),
    "large": (1, 16, 8, (64, 64), 0),
}


@pytest.fixture(autouse=True)
def by_triton():
    ht.set_backend("triton")
    yield
    ht.set_backend(None)


def adapter_like(exact: torch.nn.Module, variant: str, dropout: float = 0.0) -> ht.HTAdapter:
    bottleneck, dim = exact.project1.weight.shape
    ours = ht.HTAdapter(dim, bottleneck, variant, dropout=dropout)
    ours.load_state_dict(exact.state_dict())
    return ours.to(DEVICE)


def tokens(shape: str) -> tuple[Tensor, Tensor]:
    batch, dim, _, grid, prefix = SHAPES[shape]
    return random_tokens(batch, dim, grid, prefix)


@functools.cache
def kernel_results(variant: str, shape: str) -> dict[str, Tensor]:
    """What the kernels make in float32 of :func:`tokens` and the adapter of seed 0."""
    _, dim, bottleneck, grid, prefix = SHAPES[shape]
    ours = adapter_like(random_adapter(variant, dim, bottleneck), variant)
    x, grad = tokens(shape)
    # Strided, sequence first, as the original CLIP package passes tokens; the gradient with gaps between channels.
    strided = x.to(DEVICE).transpose(0, 1).contiguous().transpose(0, 1)
    gaps = torch.stack([grad, grad], -1).flatten(2)[..., ::2].to(DEVICE)
    return run_adapter(ours, strided, grid, prefix, gaps)


def check_gradients(got: dict[str, Tensor], variant: str, shape: str) -> None:
    _, dim, bottleneck, grid, prefix = SHAPES[shape]
    x, grad = tokens(shape)
    expected = run_adapter(random_adapter(variant, dim, bottleneck).float().double(), x.double(), grid, prefix, grad)
    assert got.keys() == expected.keys()
    scale = max(float(tensor.norm()) for tensor in expected.values())
    for name, tensor in expected.items():
        if float(tensor.norm()) > 1e-6 * scale:  # smaller ones are differences of large numbers
            assert relative_error(got[name], tensor) <= (1e-5 if name == "out" else 1e-4), name


@pytest.mark.parametrize("shape", ["odd", "no_prefix", "one_patch"])
@pytest.mark.parametrize("variant", ["hybrid", "baseline"])
def test_gradients_in_float32(variant: str, shape: str) -> None:
    got = kernel_results(variant, shape)
    check_gradients(got, variant, shape)
    if (variant, shape) == ("hybrid", "no_prefix") or DEVICE == "cuda":  # the interpreter runs one program at a time
        again = kernel_results.__wrapped__(variant, shape)
        assert all(torch.equal(got[name], again[name]) for name in got)


@pytest.mark.skipif(DEVICE == "cuda", reason="the search for the fastest tile tries many on a GPU")
@pytest.mark.parametrize(("shape", "rows"), [("two_tiles", 16), ("large", 512)])
def test_gradients_by_other_tiles(monkeypatch: pytest.MonkeyPatch, shape: str, rows: int) -> None:
    """Several tiles of tokens, where the default tile holds all; and the largest grid in few, for the interpreter."""
    for kernel, tile in {
        down_project: {"ROWS": rows, "COLUMNS": 16, "DEPTH": 16},
        mix_and_up_project: {"ROWS": rows, "SLICES": 1, "DEPTH": 16},
        mix_and_up_project_backward: {"ROWS": rows, "DEPTH": 16},
        depthwise_backward: {"ROWS": rows, "COLUMNS": 16},
        down_project_backward: {"ROWS": rows, "DEPTH": 16},
    }.items():
        monkeypatch.setattr(kernel, "configs", [compiler.Config(tile, num_warps=16)])
    check_gradients(kernel_results("baseline", shape), "baseline", shape)


def test_gradients_in_tf32(allow_tf32: None) -> None:
    """Tensor cores cut float32 operands off: without rounding before, errors are twice what is allowed."""
    dim, bottleneck, grid, prefix = 96, 32, (3, 3), 1
    published = harness_adapter(dim, bottleneck)
    x = torch.randn(1, prefix + grid[0] * grid[1], dim)
    x[..., :3] *= 50
    grad = torch.randn_like(x)
    expected = run_adapter(copy.deepcopy(published).double(), x.double(), grid, prefix, grad)
    got = run_adapter(adapter_like(published, "hybrid"), x.to(DEVICE), grid, prefix, grad.to(DEVICE))
    for results in (got, expected):
        results["x"] -= grad.double()  # what passes by the adapter is exact
    for name in ("x", "project1.weight", "project2.weight", "adapter_conv.projector.weight"):
        assert 1e-5 < relative_error(got[name], expected[name]) <= 1e-3, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_in_16_bits(dtype: torch.dtype) -> None:
    """The error is at most 1.5 times that of the published module in the same dtype, over all parameters."""
    _, dim, bottleneck, grid, prefix = SHAPES["odd"]
    low = random_adapter("noise_aware", dim, bottleneck).to(dtype)
    x, grad = (t[:1].to(dtype) for t in tokens("odd"))
    exact = run_adapter(copy.deepcopy(low).double(), x.double(), grid, prefix, grad)
    published = run_adapter(low, x, grid, prefix, grad)
    ours = adapter_like(low, "noise_aware").to(dtype)
    got = run_adapter(ours, x.to(DEVICE), grid, prefix, grad.to(DEVICE))
    for names in (["out"], ["x"], [name for name in exact if name not in ("out", "x")]):
        of, by, to = (torch.cat([results[name].flatten() for name in names]) for results in (got, published, exact))
        assert relative_error(of, to) <= 1.5 * relative_error(by, to), names


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_with_a_scaler(dtype: torch.dtype) -> None:
    _, dim, bottleneck, grid, prefix = SHAPES["odd"]
    exact = random_adapter("hybrid", dim, bottleneck)
    ours = adapter_like(exact, "hybrid")
    x, grad = (t[:1].to(DEVICE) for t in tokens("odd"))
    expected = run_adapter(exact, x.cpu().double(), grid, prefix, grad.cpu())
    scaler = torch.amp.GradScaler(DEVICE, init_scale=256.0)
    optimizer = torch.optim.SGD(ours.parameters(), lr=1e-3)
    before = ours.project1.weight.detach().clone()
    with torch.autocast(DEVICE, dtype):
        out = ours(x, grid, prefix)
    assert out.dtype == torch.float32
    rounded = relative_error((out - x).cpu(), expected["out"])
    assert 1e-5 < rounded < 2e-2, "autocast chooses the dtype of the products"
    scaler.scale((out * grad).sum()).backward()
    scaler.unscale_(optimizer)
    assert relative_error(ours.project1.weight.grad.cpu(), expected["project1.weight"]) < 3e-2  # type: ignore[union-attr]
    scaler.step(optimizer)
    scaler.update()
    assert not torch.equal(ours.project1.weight, before)


def drawn_factors(seed: Tensor, shape: tuple[int, int, int], dropout: float) -> Tensor:
    """The factors that the kernels draw, by a forward whose every other number is known."""
    batch, count, channels = shape
    folded = fold_adapter(random_adapter("baseline", channels, channels).float().to(DEVICE))
    nothing = {name: torch.zeros_like(t) for name, t in folded._asdict().items() if t is not None}
    up = torch.eye(channels, device=DEVICE)
    weights = folded._replace(**nothing)._replace(down_bias=torch.full((channels,), 8.0, device=DEVICE), up_weight=up)
    x = torch.zeros(batch, count, channels, device=DEVICE)
    weights = [None if t is None else t.detach() for t in weights]
    # All tokens are prefix tokens but one, whose convolution is zero.
    out = torch.ops.ht_kernels.adapter(x, *weights, None, seed, dropout, x.dtype, 1, 1, count - 1, 1e-5, *BY_TRITON)[0]
    return out[:, : count - 1] / 8


def test_dropout_is_the_same_forward_and_backward() -> None:
    (batch, dim, bottleneck, grid, prefix), rate = SHAPES["two_images"], 0.3
    count = prefix + grid[0] * grid[1]
    double = random_adapter("baseline", dim, bottleneck)
    ours = adapter_like(double, "baseline", rate)
    x, grad = tokens("two_images")
    torch.manual_seed(7)
    seed = torch.randint(1 << 62, (1,), device=DEVICE)
    keep = drawn_factors(seed, (batch, count + 1, bottleneck), rate).cpu().double()
    keep = (keep > 0.5).double() / (1 - rate)
    torch.manual_seed(7)
    got = run_adapter(ours, x.to(DEVICE), grid, prefix, grad.to(DEVICE))
    ht.set_backend("reference")
    leaf = x.double().requires_grad_()
    out = ht_adapter(leaf, fold_adapter(double), grid, prefix, keep=keep)
    out.backward(grad.double())
    assert relative_error(got["out"], (out - leaf).detach()) <= 1e-5
    assert relative_error(got["x"], leaf.grad) <= 1e-4  # type: ignore[arg-type]
    for name, parameter in double.named_parameters():
        assert relative_error(got[name], parameter.grad) <= 1e-4, name  # type: ignore[arg-type]


def test_dropout_rate_and_seed() -> None:
    seed = torch.tensor([3], device=DEVICE)
    kept = drawn_factors(seed, (4, 64, 64), 0.25) > 0.5
    assert abs(float(kept.float().mean()) - 0.75) < 0.02  # 5 standard deviations
    assert not torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[:1], drawn_factors(seed + 1, (1, 64, 64), 0.25) > 0.5)
    ours, (x, _) = adapter_like(random_adapter("baseline", 16, 8), "baseline", 0.5), tokens("one_patch")
    x = x.to(DEVICE)
    with torch.no_grad():
        torch.manual_seed(1)
        first, second = ours(x, (1, 1)), ours(x, (1, 1))
        torch.manual_seed(1)
        assert torch.equal(first, ours(x, (1, 1))) and not torch.equal(first, second)


def test_checkpointing_draws_the_same_factors() -> None:
    ours, (x, grad) = adapter_like(random_adapter("baseline", 16, 8), "baseline", 0.5), tokens("one_patch")
    x, grad = x.to(DEVICE), grad.to(DEVICE)

    class Checkpointed(torch.nn.Module):
        def forward(self, x: Tensor, grid: tuple[int, int], prefix: int) -> Tensor:
            return checkpoint(ours, x, grid, prefix, use_reentrant=False)

    results = []
    for module in (ours, Checkpointed()):
        torch.manual_seed(2)
        ours.zero_grad()
        results.append(
            run_adapter(module, x, (1, 1), 1, grad) | {n: p.grad.clone() for n, p in ours.named_parameters()}
        )
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_saved_for_backward() -> None:
    ours, (x, _) = adapter_like(random_adapter("hybrid", 40, 24), "hybrid", 0.5), tokens("odd")
    x = x.to(DEVICE).requires_grad_()
    saved: dict[int, Tensor] = {}

    def pack(t: Tensor) -> Tensor:
        saved[t.data_ptr()] = t
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        ours(x, (5, 4), 4)
    shapes = sorted(tuple(t.shape) for t in saved.values() if t.dim() == 3 and t.shape[0] == 2)
    assert shapes == [(2, 2, 24), (2, 24, 2), (2, 24, 24), (2, 24, 40)]  # sums of h, statistics, h, x


def test_a_compiled_step() -> None:
    torch.compiler.reset()
    ours, (x, grad) = adapter_like(random_adapter("hybrid", 16, 8), "hybrid"), tokens("one_patch")
    x, grad = x.to(DEVICE), grad.to(DEVICE)
    expected = kernel_results("hybrid", "one_patch")
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    ours.zero_grad()
    leaf = x.clone().requires_grad_()
    with torch.autocast(DEVICE, torch.bfloat16, enabled=False):
        compiled(leaf, (1, 1), 1).backward(grad)
    assert relative_error(leaf.grad.cpu(), expected["x"]) < 1e-5  # type: ignore[union-attr]
    assert relative_error(ours.project1.weight.grad.cpu(), expected["project1.weight"]) < 1e-5  # type: ignore[union-attr]
    ours.dropout.p = 0.5
    compiled(leaf, (1, 1), 1).backward(grad)


@pytest.mark.parametrize("variant", ["baseline", "hybrid"])
def test_opcheck(variant: str) -> None:
    folded = fold_adapter(random_adapter(variant, 16, 8).float().to(DEVICE))
    weights = [None if t is None else t.detach().requires_grad_() for t in folded]
    x = torch.randn(4, 1, 16, device=DEVICE).transpose(0, 1).requires_grad_()
    seed = torch.tensor([5], device=DEVICE)
    arguments = (x, *weights, None, seed, 0.5, x.dtype, 2, 2, 0, 1e-5, *BY_TRITON)
    torch.library.opcheck(torch.ops.ht_kernels.adapter.default, arguments)


def test_empty_batch_and_frozen_parts() -> None:
    ours, (x, grad) = adapter_like(random_adapter("hybrid", 16, 8), "hybrid"), tokens("one_patch")
    x, grad = x.to(DEVICE), grad.to(DEVICE)
    ours(x[:0].requires_grad_(), (1, 1), 1).sum().backward()
    assert ours.project1.weight.grad is not None and not ours.project1.weight.grad.any()
    full = kernel_results("hybrid", "one_patch")
    ours.zero_grad()
    ours(x, (1, 1), 1).backward(grad)  # no gradient of x
    assert relative_error(ours.project1.weight.grad.cpu(), full["project1.weight"]) < 1e-6
    ours.requires_grad_(False).zero_grad()
    leaf = x.clone().requires_grad_()
    ours(leaf, (1, 1), 1).backward(grad)
    assert leaf.grad is not None and torch.equal(leaf.grad.cpu().double(), full["x"])
    assert all(p.grad is None for p in ours.parameters())


def test_given_factors_are_for_other_backends() -> None:
    folded = FoldedAdapter(*(t if t is None else t.detach() for t in fold_adapter(random_adapter("baseline", 16, 8))))
    folded = FoldedAdapter(*(t if t is None else t.float().to(DEVICE) for t in folded))
    x = torch.zeros(2, 2, 16, device=DEVICE)
    with pytest.raises(BackendError, match="pass dropout, not keep"):
        ht_adapter(x, folded, (1, 1), keep=torch.ones(2, 2, 8, device=DEVICE))


def test_a_failing_forward_gives_way_to_the_reference(failing_triton: None) -> None:
    ours, (x, grad) = adapter_like(random_adapter("hybrid", 37, 10), "hybrid"), tokens("no_prefix")
    x, grad = x.to(DEVICE), grad.to(DEVICE)
    ht.set_backend("reference")
    expected = run_adapter(ours, x, (3, 4), 0, grad)
    ht.set_backend(None)
    for _ in range(2):
        got = run_adapter(ours, x, (3, 4), 0, grad)
        for name in expected:  # the fold's gradients are the core's here, and torch's for the backend named
            torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=1e-6)
