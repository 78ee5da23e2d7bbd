"""How many classes logits tell apart, and what they are called."""

from __future__ import annotations

from collections.abc import Sequence


def class_count(logits: int) -> int:
    """The number of classes that K logits tell apart: K, or 2 for a single logit."""
    return max(2, logits)


def names_of(logits: int, names: Sequence[str] | None) -> tuple[str, ...]:
    """A name for each class that K logits tell apart.

    ``names`` holds K names, which are all of them; for a single logit that is the name of class 1. None is for
    ``class 0``, ``class 1``, and so on; class 0 of a single logit is always the background.
    """
    if logits == 1:
        return "background", names[0] if names else "class 1"
    return tuple(names) if names else tuple(f"class {i}" for i in range(logits))
