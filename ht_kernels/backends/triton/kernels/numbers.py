"""Matrix products and rounding that give the same results in Triton's interpreter as on a GPU."""

from __future__ import annotations

import triton
import triton.language as tl

from ..tuning import interpreted

INTERPRETED = tl.constexpr(interpreted())


@triton.jit
def product(a, b, total, PRECISION: tl.constexpr):
    """``total + a @ b``, summed in float32.

    PRECISION applies to float32 operands: "ieee" multiplies them as they are, "tf32" rounds them to TF32, and "tf32x3"
    splits each into two TF32 numbers and leaves out the product of the two small ones. Tensor cores read only the upper
    19 bits of a number, so they cut off an operand that was not rounded. Triton rounds operands for "tf32x3", but not
    for "tf32", so this function does it.
    """
    if PRECISION == "tf32" and a.dtype == tl.float32:
        a, b = round_to_tf32(a), round_to_tf32(b)
    if INTERPRETED:
        total = _interpreted_product(a.to(tl.float32), b.to(tl.float32), total, PRECISION)
    else:
        total = tl.dot(a, b, total, input_precision=PRECISION)
    return total


@triton.jit
def multiply(
    a,
    matrix,
    first,
    terms,
    column,
    columns,
    term_stride,
    column_stride,
    total,
    PRECISION: tl.constexpr,
    STEP: tl.constexpr = 1,
):
    """Add to ``total`` (M, N) the product of ``a`` (M, K) and a part of a matrix in memory.

    The matrix has ``terms`` rows and ``columns`` columns. The part consists of K rows, every STEP-th from ``first`` on,
    and of the N columns ``column``. Rows and columns outside of the matrix are zero.

    A product holds all its operands in registers, or the matrix in shared memory. So exact float32 products are
    computed 16 terms at a time, and others with up to 32 KiB of the matrix at a time.
    """
    M: tl.constexpr = a.shape[0]
    K: tl.constexpr = a.shape[1]
    EXACT: tl.constexpr = a.dtype == tl.float32 and PRECISION == "ieee"
    SIZE: tl.constexpr = K * column.shape[0] * a.dtype.primitive_bitwidth // 8
    if K > 16 and (EXACT or SIZE > 32768):
        even, odd = tl.split(tl.reshape(a, (M, K // 2, 2)))
        total = multiply(
            even, matrix, first, terms, column, columns, term_stride, column_stride, total, PRECISION, 2 * STEP
        )
        total = multiply(
            odd, matrix, first + STEP, terms, column, columns, term_stride, column_stride, total, PRECISION, 2 * STEP
        )
    else:
        term = first + STEP * tl.arange(0, K)
        at = term[:, None] * term_stride + column[None, :] * column_stride
        b = tl.load(matrix + at, (term < terms)[:, None] & (column < columns)[None, :], other=0)
        total = product(a, b, total, PRECISION)
    return total


@triton.jit
def round_to_tf32(value):
    """Round a float32 ``value`` to the nearest TF32 number, ties away from zero, as ``cvt.rna.tf32`` does.

    Infinities and NaN do not change. Numbers from 2^128 - 2^116 on, which round to 2^128, become infinite.
    """
    bits = (value.to(tl.uint32, bitcast=True) + 0x1000) & 0xFFFFE000
    # The select keeps NaN: the NaN that a GPU computes, 0x7FFFFFFF, would otherwise become -0.
    return tl.where(value == value, bits.to(tl.uint32).to(tl.float32, bitcast=True), value)


@triton.jit
def _interpreted_product(a, b, total, PRECISION: tl.constexpr):
    """Compute the product of float32 operands as tensor cores do, in the interpreter.

    The interpreter's own ``tl.dot`` ignores the precision, and multiplies the bits of bfloat16 numbers as integers.
    """
    if PRECISION == "tf32":
        total = tl.dot(_cut_to_tf32(a), _cut_to_tf32(b), total)
    elif PRECISION == "tf32x3":
        large_a, large_b = round_to_tf32(a), round_to_tf32(b)
        small_a, small_b = _cut_to_tf32(a - large_a), _cut_to_tf32(b - large_b)
        total += tl.dot(large_a, large_b, tl.dot(large_a, small_b, tl.dot(small_a, large_b)))
    else:
        total = tl.dot(a, b, total)
    return total


@triton.jit
def _cut_to_tf32(value):
    return (value.to(tl.uint32, bitcast=True) & 0xFFFFE000).to(tl.uint32).to(tl.float32, bitcast=True)


@triton.jit
def narrow(value, dtype: tl.constexpr):
    """Round a float32 ``value`` to the nearest number of ``dtype``."""
    if INTERPRETED and dtype == tl.bfloat16:  # the interpreter would cut off instead of rounding
        bits = value.to(tl.uint32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        value = (bits & 0xFFFF0000).to(tl.uint32).to(tl.float32, bitcast=True)
    return value.to(dtype)
