"""Workers that take turns, so that a machine which is slower one minute than the next is so for all of them."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ht_kernels.errors import InputError

from .ways import Way

TURN = 0.5
"""Seconds of one turn."""


class Worker:
    """A process that runs one way, for as long as the ``with`` block lasts.

    Args:
        way: what it runs.
        model: the name of the model.
        frames: a file of frames (B, 1, H, W) uint8, as numpy.save writes it.
        results: the file that the process writes the logits to.

    Raises:
        InputError: the way cannot run the model; the message is the last line of what the process said.
    """

    def __init__(self, way: Way, model: str, frames: Path, results: Path) -> None:
        arguments = [way.name, way.precision, model, str(frames), str(results)]
        self._said = results.with_suffix(".stderr")
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.engines.worker", *arguments],
                cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True,
            )  # fmt: skip
        self._answer()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def turn(self, seconds: float = TURN) -> list[float]:
        """The seconds of each call in a turn."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> list[float]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("["):
                times: list[float] = json.loads(line)
                return times
        self._process.wait()
        said = self._said.read_text(encoding="utf-8", errors="replace").split("\n")
        raise InputError(next((line for line in reversed(said) if line.strip()), "it ended without a word"))


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep ``count`` other processes busy, each with a core of its own if there are so many."""
    programs = [multiprocessing.get_context("spawn").Process(target=_burn, daemon=True) for _ in range(count)]
    try:
        for program in programs:
            program.start()
        time.sleep(3.0 if count else 0.0)  # until they have started
        yield
    finally:
        for program in programs:
            program.kill()
            program.join()


def _burn() -> None:
    while True:
        pass
