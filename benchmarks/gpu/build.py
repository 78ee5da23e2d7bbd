"""Builds the compiled core for the GPU at hand."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]


def build(timeout: float) -> dict[str, Any]:
    """Build ``ht_kernels._C`` in place for the first GPU; says how long it took, or why it failed.

    Must run before ``ht_kernels`` is imported. Without it the Triton kernels are still measured.
    """
    major, minor = torch.cuda.get_device_capability()
    environment = {**os.environ, "HT_KERNELS_CUDA": "1", "HT_KERNELS_CUDA_ARCHS": f"{major}{minor}"}
    start = time.perf_counter()
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"built": False, "error": str(error)}
    seconds = round(time.perf_counter() - start, 1)
    if done.returncode:
        return {"built": False, "seconds": seconds, "error": (done.stdout + done.stderr)[-2000:]}
    return {"built": True, "seconds": seconds, "architecture": f"{major}.{minor}"}
