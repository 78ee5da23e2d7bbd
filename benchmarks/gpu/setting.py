"""The types that sections share: their setting, and the rows and items that they yield."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]
"""One result, as JSON can hold it. ``kind`` is build, check, tool, ceilings, timing, agreement or latency."""

Item = tuple[str, Callable[[], list[Row]]]
"""The name of an item, and the function that computes its rows."""


@dataclass(frozen=True)
class Setting:
    """Where and how a section runs.

    Attributes:
        output: the directory for results.
        backend: the backend that the section tests, or None.
        dry: run on the CPU with the smallest shapes, using Triton's interpreter and emulated CUDA kernels.
        seconds: the time to spend on one comparison of times.
    """

    output: Path
    backend: str | None
    dry: bool
    seconds: float

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.dry else "cuda")
