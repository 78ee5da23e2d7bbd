"""The errors that a user can do something about, and functions that put other libraries' errors into messages."""

from __future__ import annotations

import re
from collections.abc import Iterable

_NO_MEMORY = re.compile(
    r"out of memory|allocate memory|Failed to allocate|bad.?alloc(?:ation)?\b|Storage size calculation overflowed"
)


class InputError(ValueError):
    """Bad input from outside, such as a file, a checkpoint or an option.

    The message is a sentence or two that says what came, what was expected, and what to do. The command line prints it
    without a traceback and exits with status 2.
    """


class BackendError(RuntimeError):
    """A backend or a device cannot run a call; the message says why."""


def reason(error: BaseException) -> str:
    """The whole message of an error on one line, or the name of its class if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A clause that names the known word most like another, such as "; did you mean BUSI?"; "" where there is none."""
    import difflib

    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, 1)
    return f"; did you mean {by_lower[close[0]]}?" if close else ""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, NumPy or a runtime, or what it came from, says that there is too little memory.

    On the CPU torch raises a RuntimeError for that, and runtimes raise exceptions of their own, so their words tell.
    """
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        return True
    return error.__cause__ is not None and out_of_memory(error.__cause__)
