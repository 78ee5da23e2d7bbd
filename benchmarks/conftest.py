"""Shared by the suite: one benchmark per implementation, grouped by case so that pytest-benchmark compares them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ht_kernels.bench.cases import Case


@pytest.fixture
def compare(benchmark: Any) -> Callable[[Case, str], None]:
    """Time one implementation of a case; compilation happens before the clock starts."""

    def run(case: Case, implementation: str) -> None:
        benchmark.group = str(case)
        call = case.calls([implementation])[implementation]
        call()
        benchmark(call)

    return run
