"""The spectral filter against torch.fft in float64: by itself and in the adapter."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import ht_kernels as ht
from helpers.adapters import random_adapter, relative_error, run_adapter
from helpers.spectral import by_fft, oracle, random_mask, results, run_oracle, spectral_adapter
from ht_kernels.backends.call import Case, FilterCase
from ht_kernels.choices import FORMS
from ht_kernels.errors import BackendError
from ht_kernels.folding import fold_adapter, fourier_matrices, on_grid, radial_mask
from ht_kernels.functional import ht_adapter, spectral_filter
from ht_kernels.nn import SpectralFilter
from ht_kernels.ops import dispatch

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
BACKENDS = ("reference", "cpu")
sides = st.integers(1, 20) | st.sampled_from((24, 31, 37, 64))


@settings(max_examples=60, deadline=None)
@given(
    height=sides,
    width=sides,
    batch=st.integers(1, 3),
    channels=st.sampled_from((1, 3, 8, 17, 40)),
    form=st.sampled_from(("full", "shared")),
    is_complex=st.booleans(),
    seed=st.integers(0, 999),
)
def test_equals_torch_fft(
    height: int, width: int, batch: int, channels: int, form: str, is_complex: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    x, mask = torch.randn(batch, channels, height, width), random_mask(form, channels, (height, width), is_complex)
    x, grad = x.double(), torch.randn_like(x).double()
    expected = results(x, mask, form, grad, None)
    for got, exact in zip(results(x, mask, form, grad, "reference"), expected, strict=True):
        assert relative_error(torch.view_as_real(got + 0j), torch.view_as_real(exact + 0j)) < 1e-12
    narrow = mask.to(torch.complex64 if is_complex else torch.float32)
    exact_mask = narrow.to(mask.dtype)
    x, grad = x.float(), grad.float()
    expected = results(x.double(), exact_mask, form, grad.double(), None)
    scale = float(x.norm() * grad.norm())  # a shared mask's gradient may be a small difference
    for got, exact in zip(results(x, narrow, form, grad, "cpu"), expected, strict=True):
        distance = float(torch.view_as_real(got.to(torch.complex128) - exact).norm())
        assert distance <= 1e-5 * max(float(exact.abs().norm()), 0.01 * scale)


def test_imaginary_parts_that_a_real_image_cannot_have_are_dropped() -> None:
    torch.manual_seed(0)
    x, mask = torch.randn(1, 2, 4, 6), torch.randn(2, 4, 4, dtype=torch.complex64)
    for backend in BACKENDS:
        expected = spectral_filter(x, mask, backend=backend)
        for row, column in ((0, 0), (2, 0), (0, 3), (2, 3)):  # their own mirror images
            other = mask.clone()
            other[:, row, column] += 5j
            torch.testing.assert_close(spectral_filter(x, other, backend=backend), expected, rtol=0, atol=1e-6)


def test_gradcheck() -> None:
    torch.manual_seed(0)
    for grid in ((3, 4), (4, 5), (2, 2), (1, 3)):
        x = torch.randn(2, 3, *grid).double().requires_grad_()
        for form in ("full", "shared"):
            for is_complex in (False, True):
                mask = random_mask(form, 3, grid, is_complex).requires_grad_()
                given_form = form
                assert torch.autograd.gradcheck(
                    lambda x, mask, form=given_form: spectral_filter(x, mask, form), (x, mask)
                )
        curve = torch.randn(3, 5).double().requires_grad_()
        assert torch.autograd.gradcheck(lambda x, curve: spectral_filter(x, curve, "radial"), (x, curve))


def test_radial_depends_on_the_radius_alone_and_on_no_grid() -> None:
    curve = torch.tensor([[0.0, 1.0, 4.0]]).double()
    corner = 0.5**0.5
    for grid in ((14, 14), (9, 20)):
        mask = radial_mask(curve, grid)[0]
        rows, columns = torch.fft.fftfreq(grid[0]), torch.fft.rfftfreq(grid[1])
        for u, v in ((0, 0), (3, 2), (grid[0] // 2, grid[1] // 2)):
            at = float((rows[u] ** 2 + columns[v] ** 2) ** 0.5) / corner * 2
            assert mask[u, v] == pytest.approx(at if at < 1 else 1 + 3 * (at - 1), abs=1e-6)
    x = torch.randn(2, 1, 9, 20).double()
    expected = by_fft(x, radial_mask(curve, (9, 20)))
    assert relative_error(spectral_filter(x, curve, "radial"), expected) < 1e-12
    narrow = spectral_filter(x.float(), curve.float(), "radial", backend="cpu")
    assert relative_error(narrow, expected) < 1e-6


def test_fourier_matrices() -> None:
    for height, width in ((5, 6), (6, 5), (1, 1), (2, 2)):
        x, half = torch.randn(height, width).double(), width // 2 + 1
        rows, columns, share = fourier_matrices(height, width)
        stacked = columns @ (rows @ x.T).T.reshape(height, 2, half).transpose(0, 1).reshape(2 * height, half)
        expected = torch.fft.rfft2(x)
        torch.testing.assert_close(stacked, torch.cat([expected.real, expected.imag]), rtol=0, atol=1e-12)
        back = (columns.T @ (stacked * share)).reshape(2, height, half).transpose(0, 1).reshape(height, 2 * half) @ rows
        torch.testing.assert_close(back, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_layouts_dtypes_and_empty_batches(backend: str) -> None:
    torch.manual_seed(0)
    x, mask = torch.randn(2, 5, 6, 7), torch.randn(5, 6, 4, dtype=torch.complex64)
    expected = spectral_filter(x, mask, backend=backend)
    for other in (x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        torch.testing.assert_close(spectral_filter(other, mask, backend=backend), expected)
    torch.testing.assert_close(spectral_filter(x, mask.conj().conj_physical(), backend=backend), expected)
    conjugate = spectral_filter(x, mask.conj(), backend=backend)
    torch.testing.assert_close(conjugate, spectral_filter(x, mask.conj().resolve_conj(), backend=backend))
    empty, leaf = x[:0], mask.clone().requires_grad_()
    out = spectral_filter(empty, leaf, backend=backend)
    out.sum().backward()
    assert out.shape == (0, 5, 6, 7) and leaf.grad is not None and not leaf.grad.any()
    assert torch.equal(expected, spectral_filter(x, mask, backend=backend))
    half, exact = spectral_filter(x.bfloat16(), mask), spectral_filter(x.bfloat16().float(), mask)
    assert half.dtype == torch.bfloat16
    assert relative_error(half, exact) <= 1.2 * relative_error(exact.bfloat16(), exact), "only the result is rounded"


def test_thread_counts_agree_and_every_element_is_written() -> None:
    torch.manual_seed(0)
    x, mask = torch.randn(3, 40, 14, 14), torch.randn(40, 14, 8)
    grad = torch.randn_like(x)
    threads, found = torch.get_num_threads(), []
    torch.use_deterministic_algorithms(True)  # new memory is then filled with NaN
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(results(x, mask, "full", grad, "cpu"))
            again = results(x, mask, "full", grad, "cpu")
            assert all(torch.equal(a, b) for a, b in zip(found[-1], again, strict=True))
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
    for other in found[1:]:
        for got, expected in zip(other, found[0], strict=True):
            assert relative_error(got, expected) < 1e-6


def test_opcheck() -> None:
    x, mask = torch.randn(2, 3, 4, 5, requires_grad=True), torch.randn(3, 4, 3, 2, requires_grad=True)
    torch.library.opcheck(torch.ops.ht_kernels.spectral_filter.default, (x, mask, "cpu"))
    torch.library.opcheck(
        torch.ops.ht_kernels.spectral_filter_backward.default,
        (torch.randn(2, 3, 4, 5), x.detach(), mask.detach(), "cpu"),
    )


def test_arguments_are_checked() -> None:
    x = torch.randn(2, 3, 4, 6)
    with pytest.raises(ValueError, match="unknown spectral form 'whole', expected one of full, shared, radial"):
        spectral_filter(x, torch.ones(3, 4, 4), "whole")
    with pytest.raises(ValueError, match=r"form 'full' must have shape \(3, 4, 4\) for this x, got \(3, 4, 6\)"):
        spectral_filter(x, torch.ones(3, 4, 6))
    with pytest.raises(ValueError, match=r"form 'shared' must have shape \(1, 4, 4\)"):
        spectral_filter(x, torch.ones(3, 4, 4), "shared")
    with pytest.raises(ValueError, match=r"form 'radial' must have shape \(3, 'R'\)"):
        spectral_filter(x, torch.ones(3, 1), "radial")
    with pytest.raises(ValueError, match="x must have shape"):
        spectral_filter(x[0], torch.ones(3, 4, 4))
    with pytest.raises(TypeError, match=r"mask must be torch.float32 or torch.complex64 for this x, got torch.float64"):
        spectral_filter(x, torch.ones(3, 4, 4).double())
    with pytest.raises(ValueError, match="mask is on meta, but x is on cpu"):
        spectral_filter(x, torch.ones(3, 4, 4, device="meta"))
    with pytest.raises(ValueError, match="unknown backend '', expected"):
        spectral_filter(x, torch.ones(3, 4, 4), backend="")
    with pytest.raises(TypeError, match=r"'radial' must be torch.float32 for this x, got torch.complex64"):
        spectral_filter(x, torch.ones(3, 4, dtype=torch.complex64), "radial")
    with pytest.raises(TypeError, match="x must be float32"):
        spectral_filter(x.int(), torch.ones(3, 4, 4))


def test_backends_say_what_they_cannot_run() -> None:
    x, mask = torch.randn(1, 2, 4, 4), torch.ones(2, 4, 3)
    with pytest.raises(BackendError, match="backend 'cuda' was asked for by name but cannot run this call"):
        spectral_filter(x, mask, backend="cuda")
    assert "float64" in str(dispatch.BACKENDS["cpu"].can_filter(FilterCase(CPU, torch.float64, (4, 4), False)))
    case = Case(CPU, torch.float32, 768, 64, (14, 14), 1, False, spectral=True)
    assert dispatch.BACKENDS["cpu"].can_run(case) is None and dispatch.BACKENDS["cuda"].can_run(case) is not None


# In the adapter.


def check_adapter(variant: str, form: str, shape: tuple[int, int, int, int], grid: tuple[int, int], seed: int) -> None:
    torch.manual_seed(seed)
    batch, dim, bottleneck, prefix = shape
    ours = spectral_adapter(dim, bottleneck, variant, form, grid).float()
    x = torch.randn(batch, prefix + grid[0] * grid[1], dim)
    grad = torch.randn_like(x)
    exact = copy.deepcopy(ours).double()
    expected = run_oracle(exact, x.double(), grid, prefix, grad)
    scale = max(float(t.norm()) for name, t in expected.items() if name not in ("out", "x"))
    for backend, adapter, out, grads in (
        ("reference", exact, 1e-11, 1e-10),
        ("reference", ours, 1e-5, 1e-4),
        ("cpu", ours, 1e-5, 1e-4),
    ):
        ht.set_backend(backend)
        try:
            got = run_adapter(adapter, x.to(adapter.gamma.dtype), grid, prefix, grad)
        finally:
            ht.set_backend(None)
        for name, tensor in expected.items():
            if name in ("out", "x"):
                assert relative_error(got[name], tensor) <= (out if name == "out" else grads), (backend, name)
            else:  # the smallest are differences of larger ones
                error = float((got[name] - tensor).norm())
                assert error <= grads * max(float(tensor.norm()), 1e-3 * scale), (backend, name)


@pytest.mark.parametrize("variant", ["freq_enhanced", "hybrid"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("grid", [(14, 14), (5, 9), (2, 2), (24, 7)])
def test_the_adapter(variant: str, form: str, grid: tuple[int, int]) -> None:
    check_adapter(variant, form, (2, 48, 16, 1), grid, 0)


@settings(max_examples=25, deadline=None)
@given(
    variant=st.sampled_from(("freq_enhanced", "hybrid")),
    form=st.sampled_from(FORMS),
    batch=st.integers(1, 4),
    dim=st.sampled_from((7, 16, 33, 100)),
    bottleneck=st.sampled_from((4, 5, 20, 64, 70)),
    prefix=st.integers(0, 5),
    height=st.integers(1, 18),
    width=st.integers(1, 18),
    seed=st.integers(0, 999),
)
def test_the_adapter_of_any_shape(
    variant: str, form: str, batch: int, dim: int, bottleneck: int, prefix: int, height: int, width: int, seed: int
) -> None:
    check_adapter(variant, form, (batch, dim, bottleneck, prefix), (height, width), seed)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_adapter_on_several_threads(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check_adapter("hybrid", "full", (4, 192, 64, 1), (14, 14), 0)
        ours = spectral_adapter(192, 64, "hybrid", "full", (14, 14)).float()
        x, grad = torch.randn(4, 197, 192), torch.randn(4, 197, 192)
        first, again = (run_adapter(ours, x, (14, 14), 1, grad) for _ in range(2))
        assert all(torch.equal(first[name], again[name]) for name in first)
    finally:
        torch.set_num_threads(before)


def test_the_adapter_in_bfloat16() -> None:
    torch.manual_seed(0)
    ours = spectral_adapter(192, 64, "hybrid", "full", (14, 14)).bfloat16()
    x = torch.randn(2, 197, 192).bfloat16()
    exact = oracle(copy.deepcopy(ours).double(), x.double(), (14, 14), 1)
    with torch.no_grad():
        for backend in BACKENDS:
            got = ht_adapter(x, fold_adapter(ours), (14, 14), backend=backend)
            assert relative_error(got, exact) < 2**-8


def test_the_adapter_compiles_and_passes_opcheck() -> None:
    adapter, x = spectral_adapter(16, 8, "hybrid", "radial", (3, 4)).float(), torch.randn(2, 13, 16)
    expected = adapter(x, (3, 4))
    compiled = torch.compile(adapter, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, (3, 4)), expected, rtol=1e-5, atol=1e-5)
    weights = [None if t is None else t.detach().requires_grad_() for t in on_grid(fold_adapter(adapter), (3, 4))]
    how = (None, None, 0.0, torch.float32, 3, 4, 1, 1e-5, False, True, "cpu", True)
    torch.library.opcheck(torch.ops.ht_kernels.adapter.default, (x, *weights, *how))


@pytest.mark.parametrize("variant", ["freq_enhanced", "hybrid"])
@pytest.mark.parametrize("form", FORMS)
def test_a_published_adapter_converts_exactly(variant: str, form: str) -> None:
    published = random_adapter(variant, 24, 8)
    ours = ht.HTAdapter(24, 8, variant).double().eval()
    ours.load_state_dict(published.state_dict())
    x = torch.randn(2, 1 + 5 * 6, 24).double()
    with torch.no_grad():
        ours(x, (5, 6))  # keeps folded weights
        assert ours.to_spectral(form, (5, 6)) is ours and ours.spectral == form
        assert relative_error(ours(x, (5, 6)) - x, published(x, (5, 6)) - x) < 1e-12
    names = {name for name, _ in ours.named_parameters()}
    assert names == {n for n, _ in published.named_parameters()} - {"adapter_conv.freq_filter"} | {
        "adapter_conv.spectral.mask"
    }
    with pytest.raises(ValueError, match=f"it has a spectral filter '{form}'"):
        ours.to_spectral("full", (5, 6))


def test_a_new_spectral_adapter_computes_what_a_new_published_one_does() -> None:
    torch.manual_seed(0)
    plain = ht.HTAdapter(24, 8).eval()
    x = torch.randn(2, 17, 24)
    for form in FORMS:
        ours = ht.HTAdapter(24, 8, spectral=form, grid=(4, 4)).eval()
        ours.load_state_dict(plain.state_dict(), strict=False)
        assert relative_error(ours(x, (4, 4)) - x, plain(x, (4, 4)) - x) < 1e-6


def test_the_adapter_checks_its_arguments() -> None:
    with pytest.raises(ValueError, match="spectral 'full' needs an adapter with a gain per channel"):
        ht.HTAdapter(8, 4, "baseline", "full", grid=(2, 2))
    with pytest.raises(ValueError, match="spectral form 'shared' needs grid"):
        ht.HTAdapter(8, 4, spectral="shared")
    with pytest.raises(ValueError, match="unknown spectral form 'wavelet', expected one of full, shared, radial"):
        ht.HTAdapter(8, 4, spectral="wavelet")
    adapter = ht.HTAdapter(8, 4, spectral="full", grid=(4, 4))
    with pytest.raises(ValueError, match="made for a grid of 4x4, got 4x5; form 'radial' fits any grid"):
        adapter(torch.randn(1, 21, 8), (4, 5))
    with pytest.raises(ValueError, match=r"folded.mask must have shape \(4, 2, 2, 2\), \(1, 2, 2, 2\) or \(4, 'R'\)"):
        ht_adapter(torch.randn(1, 5, 8), fold_adapter(adapter), (2, 2))
    radial = ht.HTAdapter(8, 4, spectral="radial").eval()
    for grid in ((4, 5), (2, 2)):
        radial(torch.randn(1, 1 + grid[0] * grid[1], 8), grid)


def test_the_module_by_itself() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 5, 4)
    for form in FORMS:
        module = SpectralFilter(6, form, (5, 4))
        assert relative_error(module(x), x) < 1e-6  # a new one changes nothing
        module(x).square().sum().backward()
        assert module.mask.grad is not None and module.mask.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="made for a grid of 5x4, got 4x5"):
        SpectralFilter(6, "full", (5, 4))(x.transpose(2, 3))


def test_200_steps_of_training_agree() -> None:
    torch.manual_seed(0)
    start = ht.HTAdapter(32, 8, spectral="full", dropout=0.0, grid=(6, 6))
    x, target = torch.randn(8, 37, 32), torch.randn(8, 37, 32)
    losses = {}
    for backend in BACKENDS:
        adapter = copy.deepcopy(start)
        optimizer = torch.optim.AdamW(adapter.parameters(), lr=3e-3)
        ht.set_backend(backend)
        try:
            losses[backend] = []
            for _ in range(200):
                optimizer.zero_grad()
                loss = F.mse_loss(adapter(x, (6, 6)), target)
                loss.backward()
                optimizer.step()
                losses[backend].append(loss.item())
        finally:
            ht.set_backend(None)
    first, second = (torch.tensor(losses[backend]) for backend in BACKENDS)
    assert first[-1] < 0.8 * first[0]
    assert float((first - second).abs().max() / first[0]) < 1e-3
