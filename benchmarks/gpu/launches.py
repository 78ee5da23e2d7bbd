"""How a call of the adapter would be started on a GPU that need not be here: the library itself plans it.

``launches.cpp`` calls the library's C interface, compiled for the CPU, with a pretended device. This needs g++ alone.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from ht_kernels.errors import InputError

from .devices import Device

ROOT = Path(__file__).resolve().parents[2]
DTYPES = ("float32", "bfloat16", "float16")
"""In the order of ht_dtype in csrc/include/ht_kernels.h."""
WARP = 32


@dataclass(frozen=True)
class Call:
    """The sizes of one call: B images with a grid of H x W patches behind ``prefix`` tokens, D, C and S.

    With ``norm``, the LayerNorm of out is wanted too.
    """

    batch: int
    dtype: str = "bfloat16"
    height: int = 14
    width: int = 14
    prefix: int = 1
    dim: int = 768
    channels: int = 64
    scales: int = 3
    norm: bool = False

    @property
    def hidden(self) -> int:
        """Q, as the published module has it."""
        return self.channels // 4

    @property
    def tokens(self) -> int:
        """N, of an image."""
        return self.prefix + self.height * self.width

    @property
    def bytes(self) -> int:
        """Of one number."""
        return 4 if self.dtype == "float32" else 2

    @property
    def x_bytes(self) -> int:
        """Of x, and of out."""
        return self.batch * self.tokens * self.dim * self.bytes


@dataclass(frozen=True)
class Launch:
    """One kernel of a call: its mangled and its written name, its blocks in x and y, and what a block has."""

    symbol: str
    name: str
    grid: tuple[int, int]
    threads: int
    shared: int

    @property
    def function(self) -> str:
        """The name within ht::cuda, without template arguments and parameters."""
        return self.name.partition("<")[0].rpartition("ht::cuda::")[2]

    @property
    def blocks(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def warps(self) -> int:
        """Of a block."""
        return self.threads // WARP


@dataclass(frozen=True)
class Started:
    """The library's plan, by the names of its fields, and the kernels in order."""

    plan: dict[str, int]
    launches: list[Launch]


def build(folder: Path) -> Path:
    """The program that prints launches, made in ``folder``.

    Raises:
        RuntimeError: g++ is missing or fails.
    """
    emulation = ROOT / "tests/cpp/cuda_on_cpu"
    sources = {
        ROOT / "benchmarks/gpu/launches.cpp": [],
        emulation / "kernels.cpp": [],
        emulation / "emulate.cpp": ["-Demulate=run_emulated"],
        ROOT / "csrc/status.cpp": [],
    }
    folder.mkdir(parents=True, exist_ok=True)
    objects = []
    for source, definitions in sources.items():
        objects.append(folder / f"{source.stem}.o")
        includes = [f"-I{path}" for path in (emulation, ROOT / "csrc", ROOT / "csrc/include")]
        _run("g++", "-std=c++17", "-O0", "-w", *includes, *definitions, "-c", source, "-o", objects[-1])
    program = folder / "launches"
    _run("g++", "-rdynamic", *objects, "-ldl", "-o", program)
    return program


def ask(program: Path, call: Call, device: Device) -> Started:
    """What the library would start for a call.

    Raises:
        InputError: the library refuses the call; the message is its own.
    """
    numbers = (
        *(call.batch, call.height, call.width, call.prefix, call.dim, call.channels, call.hidden, call.scales),
        *(DTYPES.index(call.dtype), device.multiprocessors, device.block_bytes, device.shared_bytes),
        *(device.reserved_bytes, device.architecture, int(call.norm)),
    )
    done = subprocess.run([str(program), *map(str, numbers)], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"on {device.name} the library refuses this call: {done.stderr.strip()}")
    plan, launches = {}, []
    for line in done.stdout.splitlines():
        kind, name, *rest = line.split("\t")
        if kind == "plan":
            plan[name] = int(rest[0])
        else:
            x, y, threads, shared = map(int, rest[1:])
            launches.append(Launch(name, rest[0], (x, y), threads, shared))
    return Started(plan, launches)


def _run(*command: object) -> str:
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    except FileNotFoundError:
        raise RuntimeError(f"{command[0]} is needed, and it is not installed") from None
    if done.returncode:
        raise RuntimeError(f"{Path(str(command[0])).name} failed: {done.stderr.strip()[-900:]}")
    return done.stdout
