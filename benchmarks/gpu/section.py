"""One section in a process of its own: ``python -m benchmarks.gpu.section NAME --output DIR``.

Appends lines of JSON to ``NAME.jsonl``: what the machine is; an item as it starts; its rows, or its error, as it ends.
Items that have ended there before are not done again, if they ended on the same machine and commit.
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
"""Exit status of a process on a GPU in which an item failed. An illegal access or a capture that broke off would spoil
what comes after it, so another process goes on."""


@dataclass
class Lines:
    """What the lines of a section say."""

    machine: dict[str, Any] | None = None
    results: list[dict[str, Any]] = field(default_factory=list)
    under_way: str | None = None


def read_lines(path: Path) -> Lines:
    """The lines of a file, which need not exist; what is damaged is left out, such as a last one that was cut off."""
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
        interpreter.leave_out_overflow_checks()

    from .setting import Setting

    with path.open("a") as file:
        file.write("\n")  # the last line of a process that was ended may have no end

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
            except Exception as error:  # an item that fails must not cost the others
                traceback.print_exc()
                result = {"error": f"{type(error).__name__}: {str(error)[:1000]}"}
            seconds = round(time.perf_counter() - start, 2)
            write({"item": name, "seconds": seconds, **result})
            print(f"  {name}: {'FAILED' if 'error' in result else f'{seconds:.1f} s'}", flush=True)
            if _failed(result) and not setting.dry:
                os._exit(BROKEN)  # whatever this process does next may fail for the same reason
    return 0


def _failed(result: dict[str, Any]) -> bool:
    return "error" in result or any(row.get("failed") for row in result["rows"])


if __name__ == "__main__":
    sys.exit(main())
