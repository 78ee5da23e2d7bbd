"""The time that a kernel takes at least, by each thing that it may wait for; the largest is the prediction.

A multiprocessor issues at most four instructions a cycle, and has fewer lanes for some of them. Blocks are whole: the
multiprocessor with the most of them decides. Memory is shared by all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .devices import Device

ISSUED = 4
"""Instructions that a multiprocessor starts in a cycle, one for each of its schedulers."""
SPECIAL_LANES = 16
"""Lanes for MUFU and for conversions between integers and floats, by the CUDA C++ programming guide."""
SHARED_BYTES = 128
"""Bytes that shared memory gives a multiprocessor in a cycle, without conflicts of banks."""
REACHED = 0.9
"""The part of the published rate of memory that a copy is taken to reach; the floor takes the same."""
LOAD_CYCLES = 500
"""A load from global memory, between a hit in L2, about 270 cycles, and one from DRAM, about 700; an estimate."""
PACE = 2
"""Cycles between two instructions of a warp that waits for no memory: half of them need the result of the one before,
which takes 4 (Jia et al., arXiv 1804.06826). That half is an estimate."""
START = 1.5e-6
"""Seconds from the end of one kernel to the work of the next in a CUDA graph; an estimate."""


@dataclass(frozen=True)
class Work:
    """What a kernel does.

    Attributes:
        blocks: of the kernel.
        warps: of a block.
        registers: of a thread.
        shared: bytes of shared memory of a block.
        kinds: instructions by kind that a warp executes.
        multiplied: multiply-adds of tensor cores that a warp executes.
        shared_bytes: that a warp reads and writes in shared memory.
        waits: how often a warp waits for a load from global memory.
        l2: bytes through L2, of all blocks.
        dram: bytes from memory and to it, of all blocks.
    """

    blocks: int
    warps: int
    registers: int
    shared: int
    kinds: Mapping[str, float]
    multiplied: float
    shared_bytes: float
    waits: float
    l2: float
    dram: float


def resident(work: Work, device: Device) -> int:
    """The blocks that a multiprocessor holds at once; registers are given to a warp by 256."""
    by_registers = device.registers // (-(-work.registers * 32 // 256) * 256 * work.warps)
    by_shared = device.shared_bytes // (work.shared + device.reserved_bytes or 1)
    return max(1, min(by_registers, by_shared, device.warps // work.warps, 32))


def bounds(work: Work, device: Device) -> dict[str, float]:
    """Seconds by what is waited for, the start of the kernel included."""
    most = -(-work.blocks // device.multiprocessors)  # blocks of the multiprocessor that has most
    warps = most * work.warps
    instructions = sum(work.kinds.values())
    special = work.kinds.get("special", 0)
    waves = -(-work.blocks // (device.multiprocessors * resident(work, device)))
    cycles = {
        "issue slots": warps * instructions / ISSUED,
        "tensor cores": warps * work.multiplied / device.tensor,
        "fp32 lanes": warps * work.kinds.get("fp32", 0) * 32 / device.fp32,
        "special functions": warps * special * 32 / SPECIAL_LANES,
        "shared memory": warps * work.shared_bytes / SHARED_BYTES,
        "latency": waves * (instructions * PACE + work.waits * LOAD_CYCLES),
    }
    seconds = {name: value / device.clock for name, value in cycles.items()}
    seconds["L2"] = work.l2 / device.l2
    seconds["DRAM"] = work.dram / (REACHED * device.dram)
    return {name: START + value for name, value in seconds.items()}


def floor(x_bytes: int, device: Device) -> float:
    """Seconds to read x once and to write out once, as fast as a copy."""
    return 2 * x_bytes / (REACHED * device.dram)
