"""Work in Python per call of an adapter on a GPU, beside launches that do nothing; and per way to register an operator.

The tokens are one image of ViT-B/16. Needs no GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import no_driver
import pytest
import torch
from torch import Tensor

import ht_kernels as ht
from ht_kernels.functional import ht_adapter

GRID = (14, 14)


def _no_launch(*arguments: object) -> None:
    pass


@pytest.mark.benchmark(group="per call")
@pytest.mark.parametrize("way", ["HTAdapter", "ht_adapter"])
def test_call(benchmark: Any, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    no_driver.replace(monkeypatch, _no_launch)
    adapter = ht.HTAdapter(768).eval()
    x = torch.randn(1, 197, 768)
    with torch.no_grad():
        folded = adapter.folded()
        calls: dict[str, Callable[[], Tensor]] = {
            "HTAdapter": lambda: adapter(x, GRID),
            "ht_adapter": lambda: ht_adapter(x, folded, GRID),
        }
        benchmark(calls[way])


@pytest.mark.benchmark(group="per operator")
@pytest.mark.parametrize("way", ["function", "Library.define", "custom_op"])
def test_operator(benchmark: Any, way: str) -> None:
    """An operator of 15 tensors, as the adapter has, that returns new memory."""
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
