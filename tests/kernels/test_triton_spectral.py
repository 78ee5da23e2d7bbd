"""The spectral filter of the Triton backend, by itself and in the adapter; in the interpreter without a GPU."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import ht_kernels as ht
from helpers.adapters import random_tokens, relative_error, run_adapter
from helpers.spectral import by_fft, random_mask, results, run_oracle, spectral_adapter
from ht_kernels.backends.call import Case, FilterCase
from ht_kernels.backends.triton import backend as triton
from ht_kernels.errors import BackendError
from ht_kernels.folding import fold_adapter, on_grid, radial_mask
from ht_kernels.functional import spectral_filter
from ht_kernels.ops import dispatch
from ht_kernels.ops.dispatch import BACKENDS

pytest.importorskip("triton")
from ht_kernels.backends.triton.spectral import tile_of

pytestmark = pytest.mark.usefixtures("one_thread")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def by_triton():
    """Every call by Triton, into new memory full of NaN."""
    torch.use_deterministic_algorithms(True)
    ht.set_backend("triton")
    yield
    ht.set_backend(None)
    torch.use_deterministic_algorithms(False)


def check_filter(grid: tuple[int, int], batch: int, channels: int, form: str, is_complex: bool) -> None:
    mask = random_mask(form, channels, grid, is_complex)
    mask = mask.to(torch.complex64 if is_complex else torch.float32)
    x = torch.randn(batch, channels, *grid)
    grad = torch.randn_like(x)
    expected = results(
        x.double(), mask.to(torch.complex128 if is_complex else torch.float64), form, grad.double(), None
    )
    got = results(x.to(DEVICE), mask.to(DEVICE), form, grad.to(DEVICE), "triton")
    scale = float(x.norm() * grad.norm())  # a shared mask's gradient may be a small difference
    for ours, exact in zip(got, expected, strict=True):
        distance = float(torch.view_as_real(ours.cpu().to(torch.complex128) - exact).norm())
        assert distance <= 1e-5 * max(float(exact.abs().norm()), 0.01 * scale)


@settings(max_examples=6, deadline=None)
@given(
    height=st.integers(1, 34),
    width=st.integers(1, 34),
    batch=st.integers(1, 2),
    channels=st.integers(1, 5),
    form=st.sampled_from(("full", "shared")),
    is_complex=st.booleans(),
    seed=st.integers(0, 999),
)
def test_equals_torch_fft(
    height: int, width: int, batch: int, channels: int, form: str, is_complex: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    two_tiles = 1 + tile_of(torch.float32, (height, width))["COLUMNS"]
    check_filter((height, width), batch, min(channels, two_tiles), form, is_complex)


@pytest.mark.parametrize(
    ("grid", "batch", "channels"),
    [((1, 1), 1, 1), ((2, 2), 5, 5), ((16, 14), 1, 5), ((17, 32), 1, 2), ((37, 64), 1, 2)],
)
def test_edges_of_tiles(grid: tuple[int, int], batch: int, channels: int) -> None:
    """The smallest and largest side of each padding; and more images and channels than one program takes."""
    torch.manual_seed(0)
    check_filter(grid, batch, channels, "full", True)


def test_imaginary_parts_that_a_real_image_cannot_have_are_dropped() -> None:
    torch.manual_seed(0)
    x, mask = torch.randn(1, 2, 4, 6, device=DEVICE), torch.randn(2, 4, 4, dtype=torch.complex64, device=DEVICE)
    expected, other = spectral_filter(x, mask), mask.clone()
    for row, column in ((0, 0), (2, 0), (0, 3), (2, 3)):  # their own mirror images
        other[:, row, column] += 5j
    torch.testing.assert_close(spectral_filter(x, other), expected, rtol=0, atol=1e-6)


def test_radial_layouts_and_empty_batches() -> None:
    torch.manual_seed(0)
    x, curve = torch.randn(2, 3, 6, 7), torch.randn(3, 5)
    exact, grad = curve.double().requires_grad_(), torch.randn(2, 3, 6, 7)
    by_fft(x.double(), radial_mask(exact, (6, 7))).backward(grad.double())
    leaf = curve.to(DEVICE).requires_grad_()
    out = spectral_filter(x.to(DEVICE), leaf, "radial")
    out.backward(grad.to(DEVICE))
    assert exact.grad is not None and leaf.grad is not None and relative_error(leaf.grad.cpu(), exact.grad) < 1e-5
    other = x.to(DEVICE).to(memory_format=torch.channels_last)
    assert torch.equal(spectral_filter(other, leaf, "radial"), out)
    leaf.grad = None
    empty = spectral_filter(other[:0], leaf, "radial")
    empty.sum().backward()
    assert empty.shape == (0, 3, 6, 7) and leaf.grad is not None and not leaf.grad.any()


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_16_bits(dtype: torch.dtype, limit: float) -> None:
    torch.manual_seed(0)
    x, grad = (torch.randn(2, 3, 9, 6).to(dtype) for _ in range(2))
    mask = torch.randn(3, 9, 4, dtype=torch.complex64)
    expected = results(x.double(), mask.to(torch.complex128), "full", grad.double(), None)
    got = results(x.to(DEVICE), mask.to(DEVICE), "full", grad.to(DEVICE), "triton")
    assert got[0].dtype == dtype
    for ours, exact in zip(got, expected, strict=True):
        assert float((ours.cpu().to(torch.complex128) - exact).norm()) <= limit * float(exact.abs().norm())


@pytest.mark.parametrize("grid", [(14, 14), (24, 24)])
def test_bfloat16_is_as_good_as_a_rounded_transform(grid: tuple[int, int]) -> None:
    """Its products are in TF32, of rounded operands: the result is as that of torch.fft in float32, rounded."""
    torch.manual_seed(0)
    x, mask = torch.randn(1, 4, *grid).bfloat16(), torch.randn(4, grid[0], grid[1] // 2 + 1, dtype=torch.complex64)
    exact = by_fft(x.double(), mask.to(torch.complex128))
    theirs = relative_error(by_fft(x.float(), mask).bfloat16(), exact)
    ours = relative_error(spectral_filter(x.to(DEVICE), mask.to(DEVICE)).cpu(), exact)
    assert ours <= 1.5 * theirs


def test_reasons() -> None:
    def reason(dtype: torch.dtype = torch.float32, grid: tuple[int, int] = (64, 64)) -> str:
        return str(BACKENDS["triton"].can_filter(FilterCase(torch.device(DEVICE), dtype, grid, True, named=True)))

    assert reason() == "None" and "float64" in reason(torch.float64)
    assert "grids of at most 64x64, and this one is 3x65" in reason(grid=(3, 65))
    case = Case(torch.device(DEVICE), torch.float32, 768, 64, (65, 3), 1, True, spectral=True, named=True)
    assert "this one is 65x3" in str(triton.can_run(case))


def test_a_failing_filter_gives_way_to_the_next(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    x, mask = torch.randn(1, 2, 4, 4, device=DEVICE), torch.ones(2, 4, 3, device=DEVICE)

    def fail(stage: str) -> None:
        raise RuntimeError("no driver")

    monkeypatch.setattr(triton, "_module", fail)
    monkeypatch.setattr(triton, "can_filter", lambda case: None)
    monkeypatch.setattr(dispatch.choices, "retired", {})
    for name in ("cuda", "cpu"):
        monkeypatch.setattr(BACKENDS[name], "can_filter", lambda case: "out of the way")
    with pytest.raises(BackendError, match="Triton could not run the kernels: RuntimeError: no driver"):
        spectral_filter(x, mask)
    ht.set_backend(None)
    with caplog.at_level(logging.WARNING, "ht_kernels"):
        for _ in range(2):
            torch.testing.assert_close(spectral_filter(x, mask), x)
    assert len(caplog.records) == 1


def test_operators() -> None:
    x, mask = torch.randn(1, 3, 4, 5, device=DEVICE), torch.randn(3, 4, 3, 2, device=DEVICE)
    leaves = (x.clone().requires_grad_(), mask.clone().requires_grad_())
    torch.library.opcheck(torch.ops.ht_kernels.spectral_filter.default, (*leaves, "triton"))
    torch.library.opcheck(torch.ops.ht_kernels.spectral_filter_backward.default, (x, x, mask, "triton"))
    adapter = spectral_adapter(16, 4, "freq_enhanced", "radial", (2, 2)).float().to(DEVICE)
    weights = [None if t is None else t.detach() for t in on_grid(fold_adapter(adapter), (2, 2))]
    x = torch.randn(1, 5, 16, device=DEVICE)
    layout = (2, 2, 1, 1e-5)
    arguments = (x, *weights, None, None, 0.0, x.dtype, *layout, False, False, "triton", True)
    checks = ("test_schema", "test_faketensor")  # tests/kernels/test_triton*.py make them all
    torch.library.opcheck(torch.ops.ht_kernels.adapter.default, arguments, test_utils=checks)
    weights = [None if t is None else t.requires_grad_() for t in weights]
    seed = torch.tensor([5], device=DEVICE)
    arguments = (x.requires_grad_(), *weights, None, seed, 0.5, x.dtype, *layout, False, True, "triton", True)
    torch.library.opcheck(torch.ops.ht_kernels.adapter.default, arguments, test_utils=checks)


# In the adapter.

SHAPES = {  # batch, dim, bottleneck, grid, prefix tokens
    "odd": (2, 20, 5, (3, 5), 2),
    "small": (1, 16, 4, (3, 4), 0),
    "wide": (1, 24, 4, (2, 18), 1),
}


def tokens(shape: str) -> tuple[Tensor, Tensor]:
    batch, dim, _, grid, prefix = SHAPES[shape]
    return random_tokens(batch, dim, grid, prefix)


def adapter_of(shape: str, variant: str, form: str) -> ht.HTAdapter:
    _, dim, bottleneck, grid, _ = SHAPES[shape]
    torch.manual_seed(0)
    return spectral_adapter(dim, bottleneck, variant, form, grid).float()


def on_device(adapter: ht.HTAdapter, x: Tensor, shape: str, grad: Tensor) -> dict[str, Tensor]:
    *_, grid, prefix = SHAPES[shape]
    ours = copy.deepcopy(adapter).to(DEVICE)
    return run_adapter(ours, x.to(DEVICE), grid, prefix, grad.to(DEVICE))


@pytest.mark.parametrize(
    ("shape", "variant", "form"),
    [("odd", "hybrid", "full"), ("small", "freq_enhanced", "shared"), ("wide", "freq_enhanced", "radial")],
)
def test_the_adapter(shape: str, variant: str, form: str) -> None:
    *_, grid, prefix = SHAPES[shape]
    adapter, (x, grad) = adapter_of(shape, variant, form), tokens(shape)
    got = on_device(adapter, x, shape, grad)
    with torch.no_grad():
        inferred = copy.deepcopy(adapter).to(DEVICE)(x.to(DEVICE), grid, prefix).cpu() - x
    ht.set_backend(None)
    expected = run_oracle(copy.deepcopy(adapter).double(), x.double(), grid, prefix, grad)
    assert got.keys() == expected.keys() and relative_error(inferred, expected["out"]) <= 1e-5
    scale = max(float(t.norm()) for name, t in expected.items() if name not in ("out", "x"))
    for name, tensor in expected.items():
        if name in ("out", "x") or float(tensor.norm()) > 1e-6 * scale:
            assert relative_error(got[name], tensor) <= (1e-5 if name == "out" else 1e-4), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_adapter_in_16_bits(dtype: torch.dtype) -> None:
    *_, grid, prefix = SHAPES["small"]
    x, grad = (t.to(dtype) for t in tokens("small"))
    low = adapter_of("small", "freq_enhanced", "full").to(dtype)
    got = on_device(low, x, "small", grad)
    ht.set_backend(None)
    exact = run_oracle(copy.deepcopy(low).double(), x.double(), grid, prefix, grad)
    for name in ("out", "x", "adapter_conv.spectral.mask", "project1.weight"):
        assert relative_error(got[name], exact[name]) <= 4 * torch.finfo(dtype).eps, name


def test_autocast() -> None:
    *_, grid, prefix = SHAPES["small"]
    adapter, (x, grad) = adapter_of("small", "freq_enhanced", "full"), tokens("small")
    with torch.autocast(DEVICE, torch.bfloat16):
        got = on_device(adapter, x, "small", grad)
    ht.set_backend(None)
    exact = run_oracle(adapter.double(), x.double(), grid, prefix, grad)
    for name in ("out", "x", "adapter_conv.spectral.mask"):
        assert 1e-5 < relative_error(got[name], exact[name]) < 3e-2, name


def test_dropout_and_checkpointing() -> None:
    """A constant mask computes what the gain does, with the same units dropped, and again in the second forward."""
    x, grad = tokens("small")
    plain = ht.HTAdapter(16, 4, "freq_enhanced", dropout=0.5)
    adapter = copy.deepcopy(plain).to_spectral("full", (3, 4))

    class Checkpointed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = copy.deepcopy(adapter)

        def forward(self, x: Tensor, grid: tuple[int, int], prefix: int) -> Tensor:
            return checkpoint(self.inner, x, grid, prefix, use_reentrant=False)

    found = []
    for module in (plain, adapter, Checkpointed()):
        torch.manual_seed(3)
        found.append(on_device(module, x, "small", grad))  # type: ignore[arg-type]
    for name in found[0]:
        if name != "adapter_conv.freq_filter":
            assert relative_error(found[1][name], found[0][name]) <= 1e-4, name
    by_mask = found[1]["adapter_conv.spectral.mask"][..., 0].sum((1, 2))
    assert relative_error(by_mask, found[0]["adapter_conv.freq_filter"]) <= 1e-4
    assert all(torch.equal(found[1][name], found[2].get(name, found[2].get(f"inner.{name}"))) for name in found[1])


def test_a_compiled_step() -> None:
    torch.compiler.reset()
    adapter, (x, _) = adapter_of("small", "freq_enhanced", "full").to(DEVICE), tokens("small")
    compiled = torch.compile(adapter, backend="aot_eager", fullgraph=True)
    grads = []
    for module in (adapter, compiled):
        adapter.zero_grad()
        module(x.to(DEVICE), (3, 4), 0).square().sum().backward()
        grads.append(adapter.adapter_conv.spectral.mask.grad.clone())
    assert relative_error(grads[1], grads[0]) < 1e-5
