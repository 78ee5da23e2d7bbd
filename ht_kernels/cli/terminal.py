"""What commands share at a terminal: interrupts, progress, and the report of a stream in words."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ht_kernels.errors import InputError, out_of_memory, reason
from ht_kernels.progress import Watch, unwatched
from ht_kernels.words import counted

if TYPE_CHECKING:
    from ht_kernels.video import Shown

_REFRESH = 0.1
"""Seconds between two drawings of a bar."""

_INTERVAL = 15.0
"""Seconds between two lines about a piece of work that goes on, where there is no terminal."""


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
    if _draws():
        from rich.console import Console

        with Console(stderr=True).status(words) as status:
            yield lambda detail: status.update(f"{words}: {detail}")
        return
    print(words, file=sys.stderr, flush=True)
    yield lambda detail: print(f"  {detail}", file=sys.stderr, flush=True)


@contextmanager
def track() -> Iterator[Watch]:
    """Gives a function that says on stderr how far long work is, at what rate, and how much time remains.

    In a terminal that is a moving bar. Otherwise it is a line at the end of each piece of work, and before that one
    every :data:`_INTERVAL` seconds.
    """
    if os.environ.get("RANK", "0") != "0":  # of several processes of one training the first speaks
        yield unwatched
        return
    if not _draws():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[state]}")
    # No thread refreshes the bar, for it would disturb what is measured. Lines that are printed in the same terminal
    # stand above it.
    bar = Progress(
        *columns,
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    )
    pace = _Pace()

    def move(words: str, done: int, total: int) -> None:
        bar.start()
        task = bar.task_ids[0] if bar.task_ids else bar.add_task(words, state="")
        state = pace.state(done, total)
        due = pace.due(_REFRESH) or done == total
        bar.update(task, description=words, completed=done, total=total, state=state, refresh=due)

    try:
        yield move
    finally:
        bar.stop()


class _Pace:
    """How fast a piece of work goes. The next piece begins where less is done than before, or there is other work."""

    def __init__(self) -> None:
        self._done = self._total = self._first = 0
        self._begun = self._said = time.monotonic()

    def state(self, done: int, total: int) -> str:
        """How much is done, the rate, and the time that remains."""
        now = time.monotonic()
        if done <= self._done or total != self._total:
            self._first, self._begun = done, now
        self._done, self._total = done, total
        words = f"{done} of {total}"
        if done > self._first and now > self._begun:
            rate = (done - self._first) / (now - self._begun)
            words += f", {rate:.3g} a second" if rate >= 1 else f", {1 / rate:.3g} s each"
            if done < total:
                words += f", {_duration((total - done) / rate)} left"
        return words

    def due(self, seconds: float) -> bool:
        """Whether nothing was said for so long."""
        now = time.monotonic()
        if now - self._said < seconds:
            return False
        self._said = now
        return True


class _Lines:
    """Says how far work is in plain lines."""

    def __init__(self) -> None:
        self._pace = _Pace()

    def __call__(self, words: str, done: int, total: int) -> None:
        state = self._pace.state(done, total)
        if self._pace.due(_INTERVAL) or done == total:
            print(f"{words}: {state}", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _draws() -> bool:
    """Whether stderr is a terminal on which a bar can be drawn."""
    return sys.stderr.isatty() and importlib.util.find_spec("rich") is not None


@contextmanager
def progress(
    total: int | None, doing: str = "segmenting", done: str = "segmented"
) -> Iterator[Callable[[Shown], None]]:
    """Say how far a stream is: a bar in a terminal, otherwise a line every 100 frames and behind the last.

    Gives the function to call with each frame that was shown; ``total`` is how many the source has, None where that is
    not known. ``doing`` and ``done`` say what happens to them. A frame counts as done if it was shown with a mask or
    with a label.
    """
    shown = masked = 0

    def count(frame: Shown) -> str:
        nonlocal shown, masked
        shown, masked = shown + 1, masked + (frame.mask is not None or frame.label is not None)
        return f"{done} {masked} of {counted(shown, 'frame')} shown"

    if _draws():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(doing, total=total)
            yield lambda frame: bar.update(task, description=count(frame), completed=frame.index + 1)
        return

    def say(frame: Shown) -> None:
        words = count(frame)
        if shown % 100 == 0 or frame.index + 1 == total:
            print(f"{words}{f', {total} in all' if total else ''}", file=sys.stderr, flush=True)

    yield say


def warn(warnings: list[str]) -> None:
    """Say what is amiss in a file that was read all the same."""
    for sentence in warnings:
        print(f"warning: {sentence}", file=sys.stderr)


def listed(folder: Path, names: Sequence[str]) -> str:
    """The names of at least two things in a folder in words, with a slash behind those that are folders."""
    *first, last = (f"{name}/" if (folder / name).is_dir() else name for name in names)
    return f"{', '.join(first)} and {last}"


def summary(report: dict[str, Any]) -> list[str]:
    """The report of a stream in a few lines."""
    states = ", ".join(f"{count} {state}" for state, count in report["states"].items())
    lines = [
        f"{counted(report['frames'], 'frame')} ({states}), {report['with_mask']} of them with a mask, {report['fps']} "
        "frames per second with reading and writing, "
        + (f"backend {report['backend']}" if report["backend"] else f"by {report['model']['runtime']}"),
        f"{'milliseconds':<14}{'p50':>9}{'p95':>9}{'p99':>9}{'max':>9}",
    ]
    for stage, row in report["latency_ms"].items():
        lines.append(f"{stage.replace('_', ' '):<14}" + "".join(f"{row[name]:>9.2f}" for name in row))
    for name, row in report.get("measurements", {}).items():
        size = f"{row['long_diameter']:.4g} x {row['short_diameter']:.4g} {row['unit']}"
        lines.append(f"{name}: largest in frame {row['frame']}, {size}, {row['area']:.4g} {row['unit']}²")
    if "labels" in report:
        lines.append("labels: " + ", ".join(f"{count} {name}" for name, count in report["labels"].items()))
    if report["failure"] is not None:
        lines.append(f"The model failed, the last time because: {report['failure']}")
    if not report["with_mask"]:
        lines.append("No frame was shown with a mask")
    if 2 * report["states"].get("stale", 0) > report["frames"]:
        lines.append("Most frames have no mask, as the newest was too old: --stale SECONDS says how old one may be")
    return lines
