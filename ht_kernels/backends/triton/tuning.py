"""How tiles are chosen: a short list per kernel, timed once per size of work and kept on disk by Triton."""

from __future__ import annotations

import triton


def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, on the CPU."""
    return bool(triton.knobs.runtime.interpret)


def configs(*choices: dict[str, int]) -> list[triton.Config]:
    """Tiles to try; the interpreter, which cannot time, takes the last."""
    made = []
    for choice in choices:
        tile = dict(choice)
        made.append(triton.Config(tile, num_warps=tile.pop("num_warps")))
    return made[-1:] if interpreted() else made


def size_of(work: int) -> int:
    """``work`` rounded up to a power of two: calls of one size share a search."""
    return 1 << max(work - 1, 0).bit_length()


def padded(count: int) -> int:
    """The power of two, at least 16, that holds ``count``: tiles have such sides."""
    return max(16, 1 << (count - 1).bit_length()) if count else 16
