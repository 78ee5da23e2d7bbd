"""Starts the sections, each in a process of its own, keeps the budget, and writes down what came of them.

A section's process appends a line to ``SECTION.jsonl`` when it starts an item and when it ends one. When the section
ends, in whatever way, these lines become ``SECTION.json``, and ``results.md`` is made anew from all of those. What was
not done is done by the next call on the same directory.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from ht_kernels.errors import InputError
from ht_kernels.files import write_whole

from . import machine, report
from .plan import SECTIONS, Section
from .section import Lines, read_lines

ROOT = Path(__file__).resolve().parents[2]
LEAST = 10.0
"""Seconds below which a section is not started: its imports take as long."""

Document = dict[str, Any]


def run(
    output: Path, only: Collection[str], budget: float, dry: bool, say: Callable[[str], None]
) -> dict[str, Document]:
    """Run what is missing of the sections, or those named in ``only`` from their beginning.

    What was done on another machine, at another commit or in a rehearsal counts as missing.

    A call that is interrupted leaves documents and table of what it has done.

    Returns:
        The documents of all sections that have one, by name.

    Raises:
        InputError: another call works on the same directory.
        OSError: the directory cannot be written.
    """
    output = output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    with (output / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go when this process ends, however it does
        except BlockingIOError as error:
            raise InputError(f"another call works on {output}: wait for its end, or name another folder") from error
        documents = read(output, say)
        try:
            _run(documents, output, only, budget, dry, say)
        finally:
            report.write(documents, output)
    return documents


def _run(
    documents: dict[str, Document],
    output: Path,
    only: Collection[str],
    budget: float,
    dry: bool,
    say: Callable[[str], None],
) -> None:
    """As :func:`run`, from the ``documents`` that are there on, to which it adds."""
    for section in SECTIONS:  # of a call that was killed
        if section.name not in documents and (output / f"{section.name}.jsonl").exists():
            documents[section.name] = _close(output, section, "cut off with the whole call")
    here = machine.facts(dry)
    pending = [section for section in SECTIONS if section.name in only]
    if not only:
        pending = [section for section in SECTIONS if not _is_done(documents.get(section.name), here)]
    end = time.monotonic() + budget
    for index, section in enumerate(pending):
        left = end - time.monotonic()
        if left < LEAST:
            words = f"{left:.0f} s are left of the budget, and a section takes {LEAST:.0f} or more"
            say(f"{section.name}: left out, {words}")
            continue
        limit = max(LEAST, left * section.share / sum(other.share for other in pending[index:]))
        say(f"{section.name}: at most {limit:.0f} s")
        if section.name in only:  # what was there must not stand in for what this call does not end
            documents.pop(section.name, None)
            for kind in ("json", "jsonl"):
                (output / f"{section.name}.{kind}").unlink(missing_ok=True)
        start = time.monotonic()
        try:
            documents[section.name] = document = _run_section(output, section, limit, dry)
        except (KeyboardInterrupt, SystemExit):
            seconds = time.monotonic() - start
            documents[section.name] = _close(output, section, "cut off with the whole call", seconds)
            raise
        say(f"{section.name}: {document['status']}, {document['seconds']:.0f} s")
        report.write(documents, output)


def _is_done(document: Document | None, here: dict[str, Any]) -> bool:
    return document is not None and document["status"] == "done" and machine.same(document["machine"], here)


def read(output: Path, say: Callable[[str], None] = print) -> dict[str, Document]:
    """The documents in a directory, by section; ``say`` is told of files that are none."""
    documents = {}
    for section in SECTIONS:
        path = output / f"{section.name}.json"
        try:
            document = json.loads(path.read_text()) if path.exists() else None
        except ValueError:
            document = {}
        if _is_document(document):
            documents[section.name] = document
        elif document is not None:
            say(f"{path} is damaged, and {section.name} counts as missing")
    return documents


def _is_document(value: Any) -> bool:
    kinds = {"status": str, "seconds": float, "machine": (dict, type(None)), "items": list}
    return isinstance(value, dict) and all(isinstance(value.get(key, ...), kind) for key, kind in kinds.items())


def _run_section(output: Path, section: Section, limit: float, dry: bool) -> Document:
    """Run a section in processes of its own until it is through or ``limit`` seconds are over.

    A process that dies takes one item with it; another one goes on with the items behind that.
    """
    start = time.monotonic()
    path = output / f"{section.name}.jsonl"
    status = None
    with (output / "log.txt").open("ab") as log:
        while status is None:
            left = limit - (time.monotonic() - start)
            before = read_lines(path)
            code = None if left <= 0 else _process(output, section, left, dry, log)
            lines = read_lines(path)
            if code is None:
                status = f"cut off after {limit:.0f} s"
                if lines.under_way:
                    status += f", in {lines.under_way}"
            elif code == 0:
                status = "done"
            elif lines == before:
                status = f"failed: {_death(code)}; log.txt has what it said"
            elif lines.under_way:
                _append(path, {"item": lines.under_way, "error": _death(code)})
    return _close(output, section, status, time.monotonic() - start)


def _process(output: Path, section: Section, limit: float, dry: bool, log: Any) -> int | None:
    """The exit status of one process of a section; None when it had to be ended."""
    command = [sys.executable, "-m", "benchmarks.gpu.section", section.name, "--output", str(output)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if dry:
        command.append("--dry-run")
        environment["TRITON_INTERPRET"] = "1"
    log.write(f"\n$ {' '.join(command)}\n".encode())
    log.flush()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log, preexec_fn=_end_with_parent)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:  # also when this program is interrupted, and for what the process left: nothing goes on on the GPU
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


_libc = ctypes.CDLL(None)
_SIGNAL_AT_DEATH_OF_PARENT = 1  # PR_SET_PDEATHSIG


def _end_with_parent() -> None:
    """In a new process: be a group, so that what it starts ends with it, and end when this program is killed."""
    os.setpgrp()
    _libc.prctl(_SIGNAL_AT_DEATH_OF_PARENT, signal.SIGKILL)


def _death(code: int) -> str:
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
    return f"its process ended {how}"


def _append(path: Path, line: Document) -> None:
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _close(output: Path, section: Section, status: str, seconds: float = 0.0) -> Document:
    """Make the document of a section from its lines; the lines stay while something is missing."""
    path = output / f"{section.name}.jsonl"
    lines: Lines = read_lines(path)
    document = {
        "section": section.name,
        "status": status,
        "seconds": round(seconds, 1),
        "machine": lines.machine,
        "items": lines.results,
    }
    write_whole(output / f"{section.name}.json", (json.dumps(document, indent=1) + "\n").encode(), "the results")
    if status == "done":
        path.unlink()
    return document
