"""Matrix product and rounding, which Triton's interpreter does not do for bfloat16 as a GPU does."""

from __future__ import annotations

import triton
import triton.language as tl

from .tuning import interpreted

INTERPRETED = tl.constexpr(interpreted())


@triton.jit
def product(a, b, total, PRECISION: tl.constexpr):
    """``total + a @ b``, summed in float32."""
    if INTERPRETED:  # it would multiply the bits of bfloat16 numbers as integers
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def narrow(value, dtype: tl.constexpr):
    """A float32 ``value`` rounded to the nearest number of ``dtype``."""
    if INTERPRETED and dtype == tl.bfloat16:  # it would cut off
        bits = value.to(tl.uint32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        value = (bits & 0xFFFF0000).to(tl.uint32).to(tl.float32, bitcast=True)
    return value.to(dtype)
