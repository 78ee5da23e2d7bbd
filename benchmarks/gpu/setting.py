"""What a section is given: where it runs, and for how long it measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]
"""One thing that was found, as JSON holds it; ``kind`` says what it is: check, timing, latency, tool or build."""

Item = tuple[str, Callable[[], list[Row]]]
"""A name, and what finds the rows."""


@dataclass(frozen=True)
class Setting:
    """Where and how a section runs.

    Attributes:
        output: the directory of results.
        backend: that the section is about, or None.
        dry: on the CPU, on the smallest shapes: Triton's interpreter, and the CUDA kernels emulated.
        seconds: to spend on one comparison of times.
    """

    output: Path
    backend: str | None
    dry: bool
    seconds: float

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.dry else "cuda")
