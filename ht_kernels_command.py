"""The command ``ht-kernels``. This module imports nothing before it has said how OpenMP's threads wait for each other.

OpenMP reads that from the environment when torch loads. Threads that spin for long keep other programs from the cores.
The environment of a program that imports ht_kernels stays as it is, so the command does not start inside the package.
"""

from __future__ import annotations

import os


def main() -> int:
    """Run the command line with threads that soon sleep while they wait, unless the user's environment says otherwise.

    Returns the exit status of :func:`ht_kernels.cli.main`.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    from ht_kernels import cli

    return cli.main()


if __name__ == "__main__":
    raise SystemExit(main())
