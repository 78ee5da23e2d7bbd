"""Builds the compiled core for the current GPU only, or, in a dry run, with the CUDA kernels emulated on the CPU.

This section must end before another section imports ``ht_kernels``. If it fails, the Triton kernels are still measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from . import emulated
from .setting import Item, Row, Setting

ROOT = Path(__file__).resolve().parents[2]


def items(setting: Setting) -> Iterator[Item]:
    if setting.dry:
        yield "emulated kernels", lambda: _emulated(setting)
    else:
        yield "kernels for this GPU", _for_this_gpu


def _for_this_gpu() -> list[Row]:
    major, minor = torch.cuda.get_device_capability()
    environment = {**os.environ, "HT_KERNELS_CUDA": "1", "HT_KERNELS_CUDA_ARCHS": f"{major}{minor}"}
    for old in (ROOT / "ht_kernels").glob("_C*.so"):  # if the build fails, no old build is measured instead
        old.unlink()
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the build failed: ...{(done.stdout + done.stderr)[-900:]}")
    seconds = round(time.perf_counter() - start, 1)
    return [{"kind": "build", "what": f"compiled core for {major}.{minor}", "took": seconds}]


def _emulated(setting: Setting) -> list[Row]:
    start = time.perf_counter()
    emulated.build(setting.output)
    seconds = round(time.perf_counter() - start, 1)
    return [{"kind": "build", "what": "compiled core, its CUDA kernels emulated on the CPU", "took": seconds}]
