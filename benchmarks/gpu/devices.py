"""Published data of GPUs for the model of time. Clocks move with power, so what is measured may differ by a third."""

from __future__ import annotations

from dataclasses import dataclass

KIB, MIB = 1024, 2**20


@dataclass(frozen=True)
class Device:
    """One GPU.

    Attributes:
        architecture: 10 times the compute capability.
        multiprocessors: how many it has.
        clock: of its boost, in Hz.
        dram: bytes per second.
        l2: bytes per second from L2 to all multiprocessors; an estimate.
        l2_bytes: of the L2 cache.
        shared_bytes: of shared memory of a multiprocessor.
        tensor: multiply-adds of 16-bit numbers into float32, in a cycle of a multiprocessor, as mma.sync reaches them.
        fp32: lanes for float32 arithmetic of a multiprocessor.
        warps: that a multiprocessor holds at most.
    """

    name: str
    architecture: int
    multiprocessors: int
    clock: float
    dram: float
    l2: float
    l2_bytes: int
    shared_bytes: int
    tensor: int
    fp32: int
    warps: int

    registers = 65536
    """Of a multiprocessor; the CUDA C++ programming guide gives this number for all of 7.5 to 9.0."""

    @property
    def reserved_bytes(self) -> int:
        """Of shared memory that CUDA takes with each block, from compute capability 8.0 on (the same guide)."""
        return KIB if self.architecture >= 80 else 0

    @property
    def block_bytes(self) -> int:
        """Of shared memory that one block can have."""
        return self.shared_bytes - self.reserved_bytes


# Shared memory, float32 lanes and warps of a multiprocessor: CUDA C++ programming guide, by compute capability.
# tensor: the published dense 16-bit rate with float32 sums, over multiprocessors and boost clock, over 2.
DEVICES = {
    # H100 SXM data sheet: 132 multiprocessors, 989 TFLOPS at 1.83 GHz, which is 2048 a cycle. Only wgmma reaches it;
    # mma.sync has about 62 % (Luo et al., arXiv 2402.13499). H200 data sheet: the same with 4.8 TB/s. L2: 50 MB, about
    # 5.5 TB/s, an estimate from measurements of H100 PCIe. The clock is 1.755 GHz, which it is seen to hold.
    "H200": Device("H200", 90, 132, 1.755e9, 4.8e12, 5.5e12, 50 * MIB, 228 * KIB, 1270, 128, 64),
    "H100": Device("H100", 90, 132, 1.755e9, 3.35e12, 5.5e12, 50 * MIB, 228 * KIB, 1270, 128, 64),
    # A100 SXM 80 GB data sheet and white paper: 108, 1.41 GHz, 2.039 TB/s, 40 MB of L2 with 5120 bytes a cycle, of
    # which 60 % is taken, a guess; 312 TFLOPS, which is 1024 a cycle.
    "A100": Device("A100", 80, 108, 1.41e9, 2.039e12, 4.3e12, 40 * MIB, 164 * KIB, 1024, 64, 64),
    # Ada white paper: RTX 4090 has 128, 2.52 GHz, 1.008 TB/s, 72 MB of L2 and 165 TFLOPS with float32 sums, which is
    # 256 a cycle. L2: about 5 TB/s, an estimate.
    "RTX 4090": Device("RTX 4090", 89, 128, 2.52e9, 1.008e12, 5.0e12, 72 * MIB, 100 * KIB, 256, 128, 48),
    # RTX 4060, the desktop card: 24, 2.46 GHz, 272 GB/s, 24 MB of L2. L2: the RTX 4090's rate by multiprocessor.
    "RTX 4060": Device("RTX 4060", 89, 24, 2.46e9, 0.272e12, 0.92e12, 24 * MIB, 100 * KIB, 256, 128, 48),
    # Jetson AGX Orin 64 GB technical brief: 16, 1.3 GHz, 204.8 GB/s, 4 MB of L2; 85 dense TOPS of int8 on the GPU are
    # 1024 a cycle in 16 bits. L2's rate: 32 bytes a cycle and multiprocessor, a guess.
    "Orin": Device("Orin", 87, 16, 1.3e9, 0.2048e12, 0.66e12, 4 * MIB, 164 * KIB, 1024, 128, 48),
    # T4 data sheet: 40, 1.59 GHz, 320 GB/s, 4 MB of L2, 65 TFLOPS, which is 512 a cycle. L2: 1.27 TB/s, as Jia et al.
    # measured it (arXiv 1903.07486). It is said to hold far less than its boost clock within its 70 W.
    "T4": Device("T4", 75, 40, 1.59e9, 0.32e12, 1.27e12, 4 * MIB, 64 * KIB, 512, 64, 32),
}
