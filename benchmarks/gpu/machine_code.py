"""Compiles kernels of csrc/cuda for one architecture and disassembles them, which needs nvcc and no GPU."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import sass
from .launches import ROOT, Launch

SOURCES = ROOT / "csrc"


@dataclass(frozen=True)
class Compiled:
    """A kernel's machine code, and how many registers a thread has."""

    code: sass.Kernel
    registers: int


def missing() -> str:
    """What is not installed of what is needed, as a sentence, or ""."""
    names = [name for name in ("nvcc", "nvdisasm", "cuobjdump", "g++") if tool(name) is None]
    return f"{', '.join(names)} needed, and not installed; Triton brings nvdisasm and cuobjdump" if names else ""


def tool(name: str) -> str | None:
    """The path of a program of CUDA, which may be the one that Triton brings."""
    triton = importlib.util.find_spec("triton")
    beside = None if triton is None or triton.origin is None else Path(triton.origin).parent / "backends/nvidia/bin"
    return shutil.which(name) or (shutil.which(name, path=beside) if beside else None)


def compiled(launches: Sequence[Launch], architecture: int, folder: Path) -> dict[str, Compiled]:
    """The machine code of kernels by their symbols.

    A source file in ``folder`` asks for these kernels alone, so compiling takes seconds. What was disassembled of the
    same sources is kept there.

    Raises:
        RuntimeError: nvcc or a disassembler fails.
    """
    stages = ("cuda/stages.h", "cuda/float32/stages.h")
    lines = [
        *(f'#include "{name}"' for name in stages),
        *(f"template __global__ {launch.name};" for launch in launches),
    ]
    files = sorted(path for path in SOURCES.rglob("*") if path.suffix in (".cu", ".cuh", ".h"))
    key = hashlib.sha256("\n".join([*lines, *(path.read_text() for path in files)]).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    source, cubin = folder / f"{key}.cu", folder / f"{key}.{architecture}.cubin"
    text, usage = cubin.with_suffix(".sass"), cubin.with_suffix(".usage")
    if not usage.exists():
        source.write_text("\n".join(lines) + "\n")
        # The flags of CMakeLists.txt's build, and lines, which do not change the code.
        flags = ["-O3", "-DNDEBUG", "-std=c++17", "-lineinfo", f"-I{SOURCES}", f"-I{SOURCES / 'include'}"]
        _run("nvcc", "-cubin", f"-arch=sm_{architecture}", *flags, source, "-o", cubin)
        text.write_text(_run("nvdisasm", "-c", "-gi", cubin))
        usage.write_text(_run("cuobjdump", "-res-usage", cubin))
    kernels = sass.read(text.read_text())
    registers = dict(re.findall(r"Function (\S+):\s+REG:(\d+)", usage.read_text()))
    return {launch.symbol: Compiled(kernels[launch.symbol], int(registers[launch.symbol])) for launch in launches}


def _run(name: str, *arguments: object) -> str:
    program = tool(name)
    if program is None:
        raise RuntimeError(missing())
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} failed: {done.stderr.strip()[-900:]}")
    return done.stdout
