"""Numbers and tables as text."""

from __future__ import annotations

from collections.abc import Sequence


def times(ratio: float) -> str:
    """Format a ratio, as in ``6.1x``."""
    return f"{ratio:.1f}x" if ratio < 10 else f"{ratio:.0f}x"


def milliseconds(seconds: float) -> str:
    """Format ``seconds`` as milliseconds, with three digits."""
    value = 1e3 * seconds
    digits = 4 if value < 0.1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table as lines of text, in columns that are as wide as their longest cell; the first is names."""
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return ["  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]).rstrip() for row in rows]
