"""Products of the Triton backend in TF32, on a GPU or in Triton's interpreter, which computes the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.adapters import relative_error

triton = pytest.importorskip("triton")
tl = triton.language

from ht_kernels.backends.triton.kernels.numbers import product, round_to_tf32  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@triton.jit
def rounding(values, out):
    at = tl.arange(0, 16)
    tl.store(out + at, round_to_tf32(tl.load(values + at)))


@triton.jit
def multiplying(a, b, out, PRECISION: tl.constexpr):
    at = tl.arange(0, 16)[:, None] * 16 + tl.arange(0, 16)[None, :]
    total = tl.zeros((16, 16), tl.float32)
    tl.store(out + at, product(tl.load(a + at), tl.load(b + at), total, PRECISION))


def multiplied(a: Tensor, b: Tensor, precision: str) -> Tensor:
    out = torch.empty(16, 16, device=DEVICE)
    multiplying[(1,)](a.to(DEVICE), b.to(DEVICE), out, PRECISION=precision)
    return out.cpu()


def to_tf32(value: Tensor) -> Tensor:
    """Finite numbers rounded to 11 significant bits."""
    significand, exponent = torch.frexp(value.double())
    return torch.ldexp((significand * 2**11).abs().add(0.5).floor() * significand.sign() / 2**11, exponent)


def test_rounding_to_tf32() -> None:
    step, largest = 2.0**-10, 2.0**128 - 2.0**117
    inf, nan = float("inf"), float("nan")
    expected = {
        0.0: 0.0,
        1.0 + step / 4: 1.0,
        1.0 + step / 2: 1.0 + step,
        -1.0 - step / 2: -1.0 - step,
        1.0 + 0.75 * step: 1.0 + step,
        2.0 - step / 2: 2.0,
        2.0**-126: 2.0**-126,
        largest: largest,
        largest + 2.0**115: largest,
        largest + 2.0**116: inf,
        inf: inf,
        -inf: -inf,
    }
    nans = torch.tensor([0x7FC00000, 0x7FFFFFFF, -1, 0x7F800001], dtype=torch.int32).view(torch.float32)
    values = torch.cat([torch.tensor(list(expected), dtype=torch.float32), nans]).to(DEVICE)
    out = torch.empty_like(values)
    rounding[(1,)](values, out)
    wanted = torch.tensor([*expected.values(), nan, nan, nan, nan], dtype=torch.float32)
    torch.testing.assert_close(out.cpu(), wanted, rtol=0, atol=0, equal_nan=True)


def test_products_in_tf32_are_of_rounded_numbers() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(16, 16), torch.randn(16, 16)
    assert relative_error(multiplied(a, b, "tf32"), to_tf32(a) @ to_tf32(b)) < 1e-6
    assert relative_error(multiplied(a, b, "tf32"), a.double() @ b.double()) > 1e-4


def test_products_of_three_in_tf32_are_nearly_exact() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(16, 16), torch.randn(16, 16)
    assert relative_error(multiplied(a, b, "tf32x3"), a.double() @ b.double()) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_of_16_bits_are_exact_in_any_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(16, 16).to(dtype), torch.randn(16, 16).to(dtype)
    for precision in ("ieee", "tf32", "tf32x3"):
        assert relative_error(multiplied(a, b, precision), a.double() @ b.double()) < 1e-6
