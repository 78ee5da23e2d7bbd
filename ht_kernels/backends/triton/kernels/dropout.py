"""Dropout factors from a counter-based generator: a seed gives the same factors forward and backward, in any tile."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def keep_factors(seed, image, row, channel, dropout, CHANNELS: tl.constexpr):
    """The factors of the tokens ``row`` of one image: 0 with probability ``dropout``, else 1 / (1 - dropout).

    ``seed`` points to one int64. The generator is Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as
    1, 2, 3", 2011). Its counter is the index of the element in the image and the index of the image in the batch.
    """
    place = row[:, None] * CHANNELS + channel[None, :]
    zero = place * 0
    word, _, _, _ = tl.philox(tl.load(seed), place, zero + image, zero, zero)
    return tl.where(tl.uint_to_uniform_float(word) >= dropout, 1 / (1 - dropout), 0.0)
