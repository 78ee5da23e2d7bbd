"""How many threads kernels and runtimes take."""

from __future__ import annotations

import os
import sys


def usual() -> int:
    """As many threads as torch takes where it is loaded, else what ``OMP_NUM_THREADS`` says, else one per processor.

    Processors that this process may not run on are not counted.
    """
    count = getattr(sys.modules.get("torch"), "get_num_threads", None)
    if count is not None:
        return int(count())
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
