"""How long work tells how far it is: it calls a function, and whoever gives the function decides what is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
Watch = Callable[[str, int, int], None]
"""Receives what is going on, in words, how much of it is done, and how much there is."""


def unwatched(words: str, done: int, total: int) -> None:
    """The watch of those who want none."""


def watched(things: Sequence[T], words: str, watch: Watch) -> Iterator[T]:
    """The things, each of which counts as done when the next one is asked for."""
    for done, thing in enumerate(things, 1):
        yield thing
        watch(words, done, len(things))
