"""What torch sees of this machine: the instruction set, GPUs, and which backends can run."""

from __future__ import annotations

from typing import Any

import torch

from ht_kernels.backends import core, cuda
from ht_kernels.backends.call import Case
from ht_kernels.ops.dispatch import BACKENDS


def isa() -> str:
    """The instruction set that torch uses, such as ``AVX2``."""
    return torch.backends.cpu.get_cpu_capability()


def gpus() -> list[dict[str, Any]]:
    """The name, compute capability and memory of each GPU that torch sees.

    ``without_cuda_kernels`` is the reason why the CUDA kernels do not run on the GPU, or None if they do.
    """
    if not torch.cuda.is_available():
        return []
    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    archs = [] if core.missing else core.module.build_info()["cuda_archs"]
    return [
        {
            "name": p.name,
            "capability": f"{p.major}.{p.minor}",
            "memory_gib": round(p.total_memory / 2**30, 1),
            "without_cuda_kernels": core.missing or cuda.architecture_reason(archs, (p.major, p.minor)),
        }
        for p in properties
    ]


def backends() -> dict[str, str | None]:
    """For each backend, best first: None if it can run a float32 adapter here, else the reason why it cannot."""
    devices = [torch.device("cuda")] if torch.cuda.is_available() else []
    cases = [Case(device, torch.float32, 768, 64, (14, 14), 1, False) for device in [*devices, torch.device("cpu")]]
    reasons = {name: [backend.can_run(case) for case in cases] for name, backend in BACKENDS.items()}
    return {name: None if None in found else found[0] for name, found in reasons.items()}
