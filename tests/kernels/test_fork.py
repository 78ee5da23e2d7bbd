"""A process that has run threads of OpenMP forks: the child computes the same bits, and never hangs."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ht_kernels as ht
from helpers.small_towers import shake
from ht_kernels.functional import ht_adapter, spectral_filter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems fork safely, or not at all")
SECONDS = 30  # a child needs one
GRID = (14, 14)


@pytest.fixture(params=[2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def adapter() -> dict[str, Tensor]:
    """The compiled adapter, forward without and with gradients, and backward."""
    torch.manual_seed(0)
    ours, x = shake(ht.HTAdapter(192, 32)).eval(), torch.randn(3, 197, 192)
    with torch.no_grad():
        out = ht_adapter(x, ours.folded(), GRID, backend="cpu")
    ht_adapter(x.requires_grad_(), ours.folded(), GRID, backend="cpu").square().sum().backward()
    gradients = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    return {"out": out, "x": x.grad, **gradients}  # type: ignore[dict-item]


def filtered() -> dict[str, Tensor]:
    """The compiled spectral filter, forward and backward."""
    torch.manual_seed(0)
    x, mask = torch.randn(8, 64, *GRID).requires_grad_(), torch.randn(64, 14, 8).requires_grad_()
    out = spectral_filter(x, mask, backend="cpu")
    out.square().sum().backward()
    return {"out": out.detach(), "x": x.grad, "mask": mask.grad}  # type: ignore[dict-item]


def in_torch() -> dict[str, Tensor]:
    """The adapter in plain torch, as a call that no compiled backend can run."""
    torch.manual_seed(0)
    ours, x = shake(ht.HTAdapter(192, 32)).double().eval(), torch.randn(3, 197, 192).double()
    with torch.no_grad():
        return {"out": ours(x, GRID)}


def means() -> dict[str, Tensor]:
    return {"out": torch.ones(1024, 1024).mean(-1)}


def send(work: Callable[[], dict[str, Tensor]], pipe: Connection) -> None:
    pipe.send({name: t.numpy() for name, t in work().items()})


def in_child(work: Callable[[], dict[str, Tensor]]) -> dict[str, Any]:
    """The results of ``work`` in a forked process. If it hangs, it is ended, and the test fails."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    child = fork.Process(target=send, args=(work, sender))
    child.start()
    sender.close()
    try:
        assert receiver.poll(SECONDS), f"the child hangs in {work.__name__}"
        results: dict[str, Any] = receiver.recv()  # EOFError if the child failed
    finally:
        child.kill()
        child.join()
    return results


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("work", [adapter, filtered, in_torch])
@pytest.mark.parametrize("before", [adapter, in_torch])
def test_a_forked_child(before: Callable[[], dict[str, Tensor]], work: Callable[[], dict[str, Tensor]]) -> None:
    """Whoever ran the threads in the parent, and whoever runs them in the child."""
    before()
    got, expected = in_child(work), work()  # the parent has its threads again
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert np.array_equal(got[name], tensor.numpy()), name


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [4], indirect=True)
def test_the_first_parallel_region_of_a_child_is_torchs() -> None:
    """Its threads must not all renew torch's pool at the same time. Without care that fails most often, not always."""
    for _ in range(10):
        assert np.array_equal(in_child(means)["out"], np.ones(1024))
