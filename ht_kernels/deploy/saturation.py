"""Whether sums of int8 products saturate on this CPU, so that an int8 model computes less exactly than was checked.

Without instructions for int8 (VNNI), runtimes add pairs of products in 16 bits, which saturate at 32767.
"""

from __future__ import annotations

import platform
import re
from pathlib import Path

SATURATES = (
    "this CPU has no VNNI instructions, so sums of int8 products saturate, and masks and distances can be further from "
    "those of float32 than the export's check says; fp32 does not saturate"
)
"""What to tell a user where :func:`saturates`."""


def saturates(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU is an x86 without VNNI; False also where that cannot be found out."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        flags = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    except OSError:
        return False
    return flags is not None and not re.search(r"\bavx(?:512)?_vnni\b", flags[1])
