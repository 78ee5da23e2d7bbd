"""Benchmarks of overhead: the Python code of an adapter call, packing weights, and ways to register an operator.

The first replaces the kernels by ones that do nothing, so only Python code is timed. The tokens are one image of
ViT-B/16. No GPU is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import no_driver
import pytest
import torch
from torch import Tensor

import ht_kernels as ht
from ht_kernels.backends import core
from ht_kernels.folding import FoldedAdapter
from ht_kernels.functional import ht_adapter

GRID = (14, 14)


class NoKernels:
    """A replacement for the CPU kernels that does nothing."""

    def __init__(self, *arguments: object) -> None:
        pass

    def forward(self, *arguments: object) -> None:
        pass


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
@pytest.mark.parametrize("way", ["HTAdapter", "ht_adapter"])
@pytest.mark.benchmark(group="per call, kernels that do nothing")
def test_call(benchmark: Any, monkeypatch: pytest.MonkeyPatch, backend: str, way: str) -> None:
    if backend == "cuda":
        no_driver.replace(monkeypatch, lambda *arguments: None)
    else:
        monkeypatch.setattr(core.module, "CpuAdapter", NoKernels)
    adapter = ht.HTAdapter(768).eval()
    x = torch.randn(1, 197, 768)
    with torch.no_grad():
        folded = adapter.folded()
        calls: dict[str, Callable[[], Tensor]] = {
            "HTAdapter": lambda: adapter(x, GRID),
            "ht_adapter": lambda: ht_adapter(x, folded, GRID),
        }
        benchmark(calls[way])


@pytest.mark.parametrize("weights", ["kept", "packed for each call"])
@pytest.mark.benchmark(group="an adapter on the CPU")
def test_packing(benchmark: Any, weights: str) -> None:
    x = torch.randn(1, 197, 768)
    with torch.no_grad():
        folded = ht.HTAdapter(768).eval().folded()
        if weights == "kept":
            benchmark(ht_adapter, x, folded, GRID)
        else:
            benchmark(lambda: ht_adapter(x, FoldedAdapter(*folded), GRID))


@pytest.mark.benchmark(group="per operator")
@pytest.mark.parametrize("way", ["function", "Library.define", "custom_op"])
def test_operator(benchmark: Any, way: str) -> None:
    """Time an operator that takes 15 tensors, as many as the adapter's weights, and returns a new one."""
    names = [f"t{i}" for i in range(15)]
    tensors = [torch.randn(4) for _ in names]

    def body(*tensors: Tensor) -> Tensor:
        return torch.empty_like(tensors[0])

    with torch.no_grad(), torch.library._scoped_library("ht_kernels_overhead", "DEF") as library:
        if way == "function":
            benchmark(body, *tensors)
            return
        schema = f"({', '.join(f'Tensor {name}' for name in names)}) -> Tensor"
        if way == "Library.define":
            library.define(f"defined{schema}")
            library.impl("defined", body, "CPU")
            operator = torch.ops.ht_kernels_overhead.defined.default
        else:
            torch.library.custom_op("ht_kernels_overhead::custom", body, mutates_args=(), schema=schema)
            operator = torch.ops.ht_kernels_overhead.custom.default
        benchmark(operator, *tensors)
