"""compute-sanitizer over small calls of every CUDA kernel, where it is installed: all four tools, on our kernels only.

In a dry run the same calls are made to the emulated kernels, and there is no tool.
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
"""For one tool, and for the calls without one."""
OUR_KERNELS = "kns=ht4cuda"
"""What their mangled names hold."""
SCRIPT = Path(__file__).with_name("kernels_alone.py")


def items(setting: Setting) -> Iterator[Item]:
    """One tool each; the calls without a tool first, for what they cannot do no tool can watch."""
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
            for pid in [*_descendants(process.pid), process.pid]:  # the calls go on in a process of their own
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return [{**row, "passed": False, "output": f"cut off after {SECONDS:.0f} s"}]
    clean = process.returncode == 0 and re.search(r"\b0 errors", said) is not None
    return [{**row, "passed": clean, "output": said}]


def _descendants(pid: int) -> list[int]:
    """Processes that a process started, and those that these started."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def _compiled_core() -> Path | None:
    """The file of ``ht_kernels._C``; looked up and not loaded."""
    import ht_kernels

    return next(Path(ht_kernels.__file__).parent.glob("_C*.so"), None)
