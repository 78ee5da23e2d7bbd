"""What commands share at a terminal: interrupts, progress, and the report of a stream in words."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from ht_kernels.errors import InputError, out_of_memory, reason
from ht_kernels.words import counted

if TYPE_CHECKING:
    from ht_kernels.video import Shown


@contextmanager
def interruptible() -> Iterator[None]:
    """Let a request to terminate clean up as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def enough_memory(what: str, remedy: str) -> Iterator[None]:
    """Raise InputError, with what to do, ``remedy``, where there is too little memory for ``what``."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise InputError(f"there is not enough memory for {what} ({reason(error)}): {remedy}") from error


@contextmanager
def on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` on Ctrl-C or a request to terminate, in place of an exception amid a half-written file."""
    numbers = signal.SIGINT, signal.SIGTERM
    before = [signal.signal(number, lambda *_: stop()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def step(words: str) -> Iterator[Callable[[str], None]]:
    """Say what is going on: a moving line in a terminal, otherwise plain ones; gives a function for details."""
    if sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status(words) as status:
            yield lambda detail: status.update(f"{words}: {detail}")
        return
    print(words, file=sys.stderr, flush=True)
    yield lambda detail: print(f"  {detail}", file=sys.stderr, flush=True)


@contextmanager
def progress(total: int | None) -> Iterator[Callable[[Shown], None]]:
    """Say how far a stream is: a bar in a terminal, otherwise a line every 100 frames and behind the last.

    Gives the function to call with each frame; ``total`` is how many there are, None where that is not known.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("segmenting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("segmenting", total=total)
            yield lambda shown: bar.advance(task)
        return

    def say(shown: Shown) -> None:
        done = shown.index + 1
        if done % 100 == 0 or done == total:
            of = f"{done} of " if total else ""
            print(f"segmented {of}{counted(total or done, 'frame')}", file=sys.stderr, flush=True)

    yield say


def warn(warnings: list[str]) -> None:
    """Say what is amiss in a file that was read all the same."""
    for sentence in warnings:
        print(f"warning: {sentence}", file=sys.stderr)


def summary(report: dict[str, Any]) -> list[str]:
    """The report of a stream in a few lines."""
    states = ", ".join(f"{count} {state}" for state, count in report["states"].items())
    lines = [
        f"{counted(report['frames'], 'frame')} ({states}), {report['fps']} frames per second with reading and writing, "
        + (f"backend {report['backend']}" if report["backend"] else f"by {report['model']['runtime']}"),
        f"{'milliseconds':<14}{'p50':>9}{'p95':>9}{'p99':>9}{'max':>9}",
    ]
    for stage, row in report["latency_ms"].items():
        lines.append(f"{stage.replace('_', ' '):<14}" + "".join(f"{row[name]:>9.2f}" for name in row))
    if report["failure"] is not None:
        lines.append(f"The model failed, the last time because: {report['failure']}")
    if 2 * report["states"].get("stale", 0) > report["frames"]:
        lines.append("Most frames have no mask, as the newest was too old: --stale SECONDS says how old one may be")
    return lines
