"""Benchmarks of the model: the published one, eager and under torch.compile, against ht_kernels."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ht_kernels.bench.cases import IMPLEMENTATIONS, Case, cases


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("case", cases("model"), ids=str)
def test_model(compare: Callable[[Case, str], None], case: Case, implementation: str) -> None:
    compare(case, implementation)
