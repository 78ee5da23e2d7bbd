"""The log of the package. The environment variable ``HT_KERNELS_LOG`` sets its level, and has it written to stderr.

At level ``debug`` it says which backend was chosen and why the others were not, at ``info`` which runtime.
"""

from __future__ import annotations

import logging
import os

log = logging.getLogger("ht_kernels")


def _to_stderr(level: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("ht_kernels: %(message)s"))
    log.addHandler(handler)
    if level.upper() in ("DEBUG", "INFO", "WARNING", "ERROR"):
        log.setLevel(level.upper())
    else:
        log.warning("HT_KERNELS_LOG is '%s', expected debug, info, warning or error", level)


if os.environ.get("HT_KERNELS_LOG"):  # read once, at import
    _to_stderr(os.environ["HT_KERNELS_LOG"])
