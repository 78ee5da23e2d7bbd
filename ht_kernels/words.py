"""Numbers of things in sentences."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A number and a regular noun, in the plural unless the number is 1: ``1 frame``, ``0 frames``, ``3 classes``."""
    ending = "" if number == 1 else "es" if noun.endswith(("s", "ch", "x")) else "s"
    return f"{number} {noun}{ending}"
