"""A description of the machine and the versions on which the results depend: GPU, driver, packages, commit."""

from __future__ import annotations

import datetime
import os
import subprocess
from typing import Any

import torch

from ht_kernels import environment


def same(one: dict[str, Any] | None, other: dict[str, Any] | None) -> bool:
    """Whether two descriptions agree in everything except the date."""
    return one is not None and other is not None and {**one, "date": None} == {**other, "date": None}


def facts(dry: bool) -> dict[str, Any]:
    """The description for this process. ``dry`` says that nothing runs on the GPU."""
    return {
        "dry_run": dry,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": os.environ.get("HT_KERNELS_COMMIT") or environment.commit(),
        "gpu": _gpu(),
        "driver": _driver(),
        "torch": torch.__version__,
        "triton": environment.version("triton"),
        "cuda": torch.version.cuda,
    }


def _gpu() -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {"name": "no GPU"}
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "compute capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "L2": f"{properties.L2_cache_size / 2**20:.0f} MiB",
        "memory": f"{properties.total_memory / 2**30:.0f} GiB",
    }


def _driver() -> str | None:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0].strip()
    except (OSError, subprocess.CalledProcessError):
        return None
