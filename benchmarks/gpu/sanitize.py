"""compute-sanitizer, if installed, on small calls of every CUDA kernel, with all four tools and on our kernels only.

A dry run makes the same calls to the emulated kernels, without a tool.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from . import emulated
from .setting import Item, Row, Setting

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
SECONDS = 30.0
"""The time limit for one tool, and for the calls without a tool."""
OUR_KERNELS = "kns=ht4cuda"
"""compute-sanitizer's filter for our kernels: a part of their mangled names."""
SCRIPT = Path(__file__).with_name("kernels_alone.py")


def items(setting: Setting) -> Iterator[Item]:
    """Yield the calls without a tool, and then an item for each tool. If the former fail, the tools would fail too."""
    yield "calls without a tool", lambda: _calls(setting)
    for tool in TOOLS if not setting.dry else ():
        yield tool, lambda tool=tool: _watch(tool)


def _calls(setting: Setting) -> list[Row]:
    if setting.dry:
        core, library = emulated.path(setting.output), "numpy"
    else:
        core, library = _compiled_core(), "cupy"
    if core is None:
        return [{"kind": "tool", "what": "calls of every kernel", "skipped": "the core is not built"}]
    command = [sys.executable, str(SCRIPT), str(core), library]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    said = (done.stdout + done.stderr)[-1500:]
    return [{"kind": "tool", "what": "calls of every kernel", "passed": done.returncode == 0, "output": said}]


def _watch(tool: str) -> list[Row]:
    row: Row = {"kind": "tool", "what": f"compute-sanitizer {tool}"}
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    core = _compiled_core()
    if core is None or not Path(program).exists():
        missing = "the core is not built" if core is None else "compute-sanitizer is not installed"
        return [{**row, "skipped": missing}]
    command = [program, "--tool", tool, "--error-exitcode", "9", "--kernel-name", OUR_KERNELS]
    command += [sys.executable, str(SCRIPT), str(core), "cupy"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            said = process.communicate(timeout=SECONDS)[0][-1500:]
        except subprocess.TimeoutExpired:
            for pid in [*_descendants(process.pid), process.pid]:  # the calls run in a child process
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return [{**row, "passed": False, "output": f"cut off after {SECONDS:.0f} s"}]
    clean = process.returncode == 0 and re.search(r"\b0 errors", said) is not None
    return [{**row, "passed": clean, "output": said}]


def _descendants(pid: int) -> list[int]:
    """The ids of all children of a process, of their children, and so on."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # the process may have ended meanwhile
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def _compiled_core() -> Path | None:
    """The path of the file of ``ht_kernels._C``, which is not loaded; None if there is none."""
    import ht_kernels

    return next(Path(ht_kernels.__file__).parent.glob("_C*.so"), None)
