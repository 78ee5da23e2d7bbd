"""Runs one section in its own process: ``python -m benchmarks.gpu.section NAME --output DIR``.

It appends lines of JSON to ``NAME.jsonl``: a description of the machine, the name of each item when it starts, and the
item's rows or its error when it ends. Items that the file already holds are not run again, if they ran on the same
machine and commit.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import machine
from .plan import NAMES, find

BROKEN = 3
"""The exit status of a process on a GPU after an item failed. An illegal access or a broken capture would make later
items fail too, so another process continues with them."""


@dataclass
class Lines:
    """The content of a section's file of lines.

    ``results`` holds the items that have ended, and ``under_way`` the name of an item that has started but not ended.
    """

    machine: dict[str, Any] | None = None
    results: list[dict[str, Any]] = field(default_factory=list)
    under_way: str | None = None


def read_lines(path: Path) -> Lines:
    """Read a file of lines, which need not exist. Damaged lines, such as a last line that was cut off, are ignored."""
    lines = Lines()
    for text in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if not isinstance(line, dict):
            continue
        if "machine" in line:
            if not machine.same(lines.machine, line["machine"]):
                lines = Lines()
            lines.machine, lines.under_way = line["machine"], None
        elif "started" in line:
            lines.under_way = line["started"]
        elif "item" in line:
            lines.results.append(line)
            lines.under_way = None
    return lines


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse_args()
    section, path = find(args.name), args.output / f"{args.name}.jsonl"
    if args.dry_run and section.name != "build":
        from . import emulated, interpreter

        emulated.use(args.output)
        interpreter.speed_up()

    from .setting import Setting

    with path.open("a") as file:
        file.write("\n")  # the last line of a killed process may be incomplete

        def write(line: dict[str, Any]) -> None:
            file.write(json.dumps(line, default=str) + "\n")
            file.flush()

        write({"machine": machine.facts(args.dry_run)})
        done = {line["item"] for line in read_lines(path).results}
        setting = Setting(args.output, section.backend, args.dry_run, seconds=0.01 if args.dry_run else 1.5)
        for name, find_rows in importlib.import_module(f"benchmarks.gpu.{section.module}").items(setting):
            if name in done:
                continue
            write({"started": name})
            start = time.perf_counter()
            try:
                result: dict[str, Any] = {"rows": find_rows()}
            except Exception as error:  # the other items run even if one fails
                traceback.print_exc()
                result = {"error": f"{type(error).__name__}: {str(error)[:1000]}"}
            seconds = round(time.perf_counter() - start, 2)
            write({"item": name, "seconds": seconds, **result})
            print(f"  {name}: {'FAILED' if 'error' in result else f'{seconds:.1f} s'}", flush=True)
            if _failed(result) and not setting.dry:
                os._exit(BROKEN)  # the error may make later items in this process fail too
    return 0


def _failed(result: dict[str, Any]) -> bool:
    return "error" in result or any(row.get("failed") for row in result["rows"])


if __name__ == "__main__":
    sys.exit(main())
