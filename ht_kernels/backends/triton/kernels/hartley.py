"""The Hartley transform of small images as matrix products, and the order of its frequencies.

The transform is real and, up to a factor, its own inverse: t = A_H s A_W with A_H[y, u] = cas(2 pi u y / H),
cas = cos + sin, and A_H A_H = H. The Fourier transform c - i d of s follows from t and its reflections:
2 c(u, v) = t(u, -v) + t(-u, v) and 2 d(u, v) = t(u, v) - t(-u, -v).

Sides are padded with zeros to 16, 32 or 64. The frequencies of a transformed side lie in slots, in groups of 16. The
first group holds 0 to 7 and then -0 to -7, the second 8 to 15 and then -8 to -15, and so on; slot -0 holds the
frequency of half the side. So a reflection swaps slots that are 8 apart, except for slots 0 and -0. The accumulators of
tensor cores keep such pairs in one thread.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..tuning import padded
from .numbers import product


@functools.lru_cache(maxsize=128)
def matrix(side: int, device: torch.device) -> Tensor:
    """The matrix A of a side, (padded side, slots), with zeros where there is no pixel or no frequency."""
    count = padded(side)
    slot = torch.arange(count)
    pair = slot // 16 * 8 + slot % 8
    frequency = torch.where(slot % 16 < 8, pair, torch.where(pair == 0, side // 2, side - pair))
    exists = (2 * pair < side) & ((slot != 8) | (side % 2 == 0))
    angle = 2 * torch.pi / side * (torch.arange(count)[:, None] * frequency % side).double()
    return ((angle.cos() + angle.sin()) * exists * (torch.arange(count) < side)[:, None]).float().to(device)


@triton.jit
def frequencies(COUNT: tl.constexpr, side):
    """The frequency in each of COUNT slots, from 0 to ``side`` - 1, and whether the slot holds a frequency."""
    slot = tl.arange(0, COUNT)
    pair = slot // 16 * 8 + slot % 8
    exists = (2 * pair < side) & ((slot != 8) | (side % 2 == 0))
    pair = tl.minimum(pair, side // 2)
    return tl.where(slot % 16 < 8, pair, tl.where(pair == 0, side // 2, side - pair)), exists


@triton.jit
def _add_product(total, s, matrix, first, STEP: tl.constexpr, TRANSPOSED: tl.constexpr, PRECISION: tl.constexpr):
    """Add to ``total`` (M, N) the product of ``s`` (M, K) and every STEP-th row of a matrix (N, N) or its transpose."""
    N: tl.constexpr = total.shape[1]
    row, column = (first + STEP * tl.arange(0, s.shape[1]))[:, None], tl.arange(0, N)[None, :]
    at = column * N + row if TRANSPOSED else row * N + column
    return product(s, tl.load(matrix + at), total, PRECISION)


@triton.jit
def _multiply(s, matrix, TRANSPOSED: tl.constexpr, PRECISION: tl.constexpr):
    """Multiply ``s`` (A, B, N) by a matrix (N, N) in memory or its transpose, 16 terms at a time to save registers."""
    A: tl.constexpr = s.shape[0]
    B: tl.constexpr = s.shape[1]
    N: tl.constexpr = s.shape[2]
    total = tl.zeros((A * B, N), tl.float32)
    if N == 16:
        total = _add_product(total, tl.reshape(s, (A * B, N)), matrix, 0, 1, TRANSPOSED, PRECISION)
    else:
        even, odd = tl.split(tl.reshape(s, (A * B, N // 2, 2)))
        if N == 32:
            total = _add_product(total, even, matrix, 0, 2, TRANSPOSED, PRECISION)
            total = _add_product(total, odd, matrix, 1, 2, TRANSPOSED, PRECISION)
        else:
            first, third = tl.split(tl.reshape(even, (A * B, N // 4, 2)))
            total = _add_product(total, first, matrix, 0, 4, TRANSPOSED, PRECISION)
            total = _add_product(total, third, matrix, 2, 4, TRANSPOSED, PRECISION)
            second, fourth = tl.split(tl.reshape(odd, (A * B, N // 4, 2)))
            total = _add_product(total, second, matrix, 1, 4, TRANSPOSED, PRECISION)
            total = _add_product(total, fourth, matrix, 3, 4, TRANSPOSED, PRECISION)
    return tl.reshape(total, (A, B, N))


@triton.jit
def transform(s, across, down, PRECISION: tl.constexpr):
    """The transform (channels, v, u) of images ``s`` (channels, y, x).

    ``across`` and ``down`` are the matrices of width and height.
    """
    rows = _multiply(s, across, False, PRECISION)
    return _multiply(tl.permute(rows, (0, 2, 1)), down, False, PRECISION)


@triton.jit
def inverse(t, across, down, PRECISION: tl.constexpr):
    """The images (channels, y, x) that have the transform ``t`` (channels, v, u), multiplied by height and width."""
    columns = _multiply(t, down, True, PRECISION)
    return _multiply(tl.permute(columns, (0, 2, 1)), across, True, PRECISION)


@triton.jit
def _swap(pairs, alone):
    first, second = tl.split(pairs)
    return tl.join(tl.where(alone, first, second), tl.where(alone, second, first))


@triton.jit
def reflect_u(t):
    """Reflect ``t`` (channels, v, u): the result at (u, v) is ``t`` at (-u, v)."""
    A: tl.constexpr = t.shape[0]
    B: tl.constexpr = t.shape[1]
    N: tl.constexpr = t.shape[2]
    pairs = tl.permute(tl.reshape(t, (A * B, N // 16, 2, 8)), (0, 1, 3, 2))
    alone = (tl.arange(0, N // 16)[:, None] + tl.arange(0, 8)[None, :] == 0)[None, :, :]
    return tl.reshape(tl.permute(_swap(pairs, alone), (0, 1, 3, 2)), (A, B, N))


@triton.jit
def reflect_v(t):
    """Reflect ``t`` (channels, v, u): the result at (u, v) is ``t`` at (u, -v)."""
    A: tl.constexpr = t.shape[0]
    B: tl.constexpr = t.shape[1]
    N: tl.constexpr = t.shape[2]
    pairs = tl.permute(tl.reshape(t, (A * B // 16, 2, 8, N)), (0, 2, 3, 1))
    block = tl.arange(0, A * B // 16) % (B // 16)
    alone = (block[:, None] + tl.arange(0, 8)[None, :] == 0)[:, :, None]
    return tl.reshape(tl.permute(_swap(pairs, alone), (0, 3, 1, 2)), (A, B, N))


@triton.jit
def cosines_and_sines(t):
    """2 c and 2 d, where c - i d is the Fourier transform that belongs to the transform ``t`` (channels, v, u)."""
    mirrored = reflect_v(t)
    return mirrored + reflect_u(t), t - reflect_u(mirrored)
