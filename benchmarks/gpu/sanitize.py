"""compute-sanitizer over a few small calls, where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_SCRIPT = """
import torch
from benchmarks.gpu import spectral
from benchmarks.gpu.correctness import check
shapes = [("hybrid", 2, 96, 24, (5, 9), 1), ("baseline", 1, 64, 64, (3, 3), 0)]
rows = check(["cuda"], torch.device("cuda"), shapes)
rows += spectral.check(["cuda"], torch.device("cuda"), [(2, 11, (5, 8)), (1, 2, (37, 31))])
assert all(row.get("passed") for row in rows), rows
"""


def sanitize(tool: str, timeout: float) -> dict[str, Any]:
    """Run the CUDA kernels under ``tool``: memcheck, racecheck, initcheck or synccheck."""
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(program).exists():
        return {"tool": tool, "skipped": "compute-sanitizer is not installed"}
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(_SCRIPT)
        script.flush()
        ours = "kns=ht4cuda"  # in the mangled names of our kernels
        command = [program, "--tool", tool, "--error-exitcode", "9", "--kernel-regex", ours]
        try:
            done = subprocess.run(
                [*command, sys.executable, script.name],
                cwd=Path(__file__).resolve().parents[2],
                env={**os.environ, "PYTHONPATH": "."},
                capture_output=True,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            return {"tool": tool, "skipped": f"it took longer than {timeout:.0f} s"}
    return {"tool": tool, "passed": done.returncode == 0, "output": (done.stdout + done.stderr)[-1500:]}
