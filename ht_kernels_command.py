"""The command ``ht-kernels``. This module loads nothing before it has said how threads wait and what memory is kept.

OpenMP reads from the environment how its threads wait for each other, when torch loads. Threads that spin for long keep
other programs from the cores. Memory that glibc gives back to the system costs a page fault for every 4 KiB when the
next tensor takes it again. A program that imports ht_kernels keeps its own environment and its own settings of glibc,
so the command does not start inside the package.
"""

from __future__ import annotations

import os
import sys

_SETTINGS = "GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"
"""By these the user's environment says the same to glibc."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names of malloc.h


def main() -> int:
    """Run the command line with threads that soon sleep while they wait, and with memory that is kept for reuse.

    In both, what the user's environment says counts more.

    Returns the exit status of :func:`ht_kernels.cli.main`, or 130 when it was interrupted on the way there.
    """
    try:
        if "OMP_WAIT_POLICY" not in os.environ:
            os.environ.setdefault("GOMP_SPINCOUNT", "1000")
        if not any(name in os.environ for name in _SETTINGS):
            keep_memory()
        from ht_kernels import cli

        return cli.main()
    except KeyboardInterrupt:  # before the command line itself could catch it
        print("ht-kernels: interrupted", file=sys.stderr)
        return 130


def keep_memory() -> bool:
    """Make glibc keep freed memory for the next tensors; return whether it does. Other C libraries stay as they are.

    The process then holds on to the most memory that it had at a time.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    sizes = 2**30, 2**25  # glibc before 2.35 refuses the first
    mapped = any(mallopt(_M_MMAP_THRESHOLD, size) for size in sizes)
    return mapped and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


if __name__ == "__main__":
    raise SystemExit(main())
