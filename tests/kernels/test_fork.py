"""A process that has run threads of OpenMP forks: the child computes the same bits, and never hangs."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
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


def same(got: dict[str, Any], expected: dict[str, Tensor]) -> bool:
    return got.keys() == expected.keys() and all(np.array_equal(got[name], t.numpy()) for name, t in expected.items())


def run(case: str) -> str:
    """``same`` where the child of a case has the bits of the parent, else what is wrong."""
    threads, before, work = case.split("-")
    torch.set_num_threads(int(threads))
    try:
        if before == "nothing":  # ten children, because it is chance whether several threads come at the same time
            return "same" if all(same(in_child(WORKS[work]), WORKS[work]()) for _ in range(10)) else "differs"
        WORKS[before]()
        got = in_child(WORKS[work])
        return "same" if same(got, WORKS[work]()) else "differs"  # the parent has its threads again
    except Exception as error:
        return f"{type(error).__name__}: {error}"


WORKS: dict[str, Callable[[], dict[str, Tensor]]] = {
    "adapter": adapter,
    "filtered": filtered,
    "in_torch": in_torch,
    "means": means,
}
CASES = [f"{n}-{before}-{work}" for n in (2, 3) for before in ("adapter", "in_torch") for work in list(WORKS)[:3]]
CASES += ["4-nothing-means"]  # in the first parallel region, torch's threads must not all renew torch's pool


@pytest.fixture(scope="module")
def told() -> dict[str, str]:
    """What a new process says of the cases: which work runs in the parent, and which in the child.

    In this process tests may have run autograd's own threads, and torch then refuses a backward in a child.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("case", CASES)
def test_a_forked_child(case: str, told: dict[str, str]) -> None:
    """Whoever ran the threads in the parent, and whoever runs them in the child."""
    assert told[case] == "same"


if __name__ == "__main__":
    for case in CASES:
        print(case, run(case))
