"""The sections in order, and the share of the budget that each is worth."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """One section.

    Attributes:
        name: as in ``--only`` and in the names of files.
        share: its part of the budget, in proportion to that of the others; what it leaves
            goes to those behind it.
        module: of this package; its ``items(setting)`` gives what the section does.
        backend: the backend that the whole section is about, or None.
    """

    name: str
    share: float
    module: str
    backend: str | None


SECTIONS = (
    Section("build", 80, "build", None),
    Section("cuda-correctness", 50, "correctness", "cuda"),
    Section("cuda-timing", 90, "timing", "cuda"),
    Section("sanitizer", 140, "sanitize", None),
    Section("triton-correctness", 110, "correctness", "triton"),
    Section("gradients", 90, "gradients", "triton"),
    Section("triton-timing", 110, "timing", "triton"),
    Section("compiled-baselines", 120, "baselines", "cuda"),
)

NAMES = tuple(section.name for section in SECTIONS)
BUDGET = 540.0
"""Seconds for everything, where a command may take ten minutes."""


def find(name: str) -> Section:
    return SECTIONS[NAMES.index(name)]
