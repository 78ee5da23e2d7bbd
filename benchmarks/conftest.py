"""The fixture of the benchmark suite. There is one benchmark per implementation, grouped by case to be compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ht_kernels.bench.cases import Case


@pytest.fixture
def compare(benchmark: Any) -> Callable[[Case, str], None]:
    """Time one implementation of a case. A first call, which compiles, is not timed."""

    def run(case: Case, implementation: str) -> None:
        benchmark.group = str(case)
        call = case.calls([implementation])[implementation]
        call()
        benchmark(call)

    return run
