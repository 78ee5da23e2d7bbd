"""Runs each section in its own process, keeps the time budget, and writes the results.

A section's process appends a line to ``SECTION.jsonl`` when it starts an item and when it ends one. When the section
ends, for whatever reason, these lines are collected in ``SECTION.json``, and ``results.md`` is rewritten from all
sections' files. The next call on the same directory does what is missing.
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
"""A section is not started with fewer seconds than this, because its imports alone take about as long."""

Document = dict[str, Any]


def run(
    output: Path, only: Collection[str], budget: float, dry: bool, say: Callable[[str], None]
) -> dict[str, Document]:
    """Run the sections, or the rest of them, that are missing; or run the sections in ``only`` from their beginning.

    Results from another machine, another commit or a dry run count as missing. If the call is interrupted, the results
    so far and a table of them are on disk.

    Returns:
        The documents of all sections that have results, by name.

    Raises:
        InputError: another call is using the same directory.
        OSError: the directory cannot be written.
    """
    output = output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    with (output / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when this process ends, for whatever reason
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
    """Do the work of :func:`run`. New results are added to ``documents``, which holds the existing ones."""
    for section in SECTIONS:  # collect the lines that a killed call left
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
        if section.name in only:  # old results must not remain if this call is cut off
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
    """Read the documents in a directory, by section. ``say`` receives a line for each damaged file."""
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
    """Run a section in its own process until it is done or ``limit`` seconds have passed.

    If the process dies, the current item has failed, and another process continues with the next item.
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
    """Run one process of a section. Return its exit status, or None if it was killed after ``limit`` seconds."""
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
    finally:  # kill the process and its children, also if this program is interrupted, so that the GPU is free
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


_libc = ctypes.CDLL(None)
_SIGNAL_AT_DEATH_OF_PARENT = 1  # PR_SET_PDEATHSIG


def _end_with_parent() -> None:
    """Prepare a new process: make it the leader of a group that can be killed at once, and end it with its parent."""
    os.setpgrp()
    _libc.prctl(_SIGNAL_AT_DEATH_OF_PARENT, signal.SIGKILL)


def _death(code: int) -> str:
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
    return f"its process ended {how}"


def _append(path: Path, line: Document) -> None:
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _close(output: Path, section: Section, status: str, seconds: float = 0.0) -> Document:
    """Write the document of a section from its lines. The file of lines is deleted if the section is done."""
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
