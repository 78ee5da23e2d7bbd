"""The sections in order, and each section's share of the time budget."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """One section.

    Attributes:
        name: the name for ``--only`` and for files.
        share: the share of the budget, relative to the shares of the other sections. Time that a section does not use
            goes to the sections after it.
        module: the module of this package whose ``items(setting)`` yields the items of the section.
        backend: the backend that the section tests, or None.
    """

    name: str
    share: float
    module: str
    backend: str | None


SECTIONS = (
    Section("build", 80, "build", None),
    Section("cuda-correctness", 50, "correctness", "cuda"),
    Section("cuda-timing", 90, "timing", "cuda"),
    Section("cuda-masks", 60, "masks", "cuda"),
    Section("sanitizer", 140, "sanitize", None),
    Section("triton-correctness", 110, "correctness", "triton"),
    Section("gradients", 90, "gradients", "triton"),
    Section("triton-timing", 110, "timing", "triton"),
    Section("compiled-baselines", 60, "baselines", "cuda"),
    Section("compiled-models", 60, "compiled_models", "cuda"),
)

NAMES = tuple(section.name for section in SECTIONS)
BUDGET = 540.0
"""The default budget in seconds. It fits into ten minutes, a common limit for one command."""


def find(name: str) -> Section:
    return SECTIONS[NAMES.index(name)]
