"""Interleaved timing, and the measurement of the machine's memory bandwidth and arithmetic peak."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Call = Callable[[], object]

SAMPLE_SECONDS = 0.005
"""The duration of a sample. Shorter calls are repeated within a sample, so that the cost of reading the clock does not
matter."""

MIN_SAMPLES = 5
MAX_SAMPLES = 200

COPIED_FLOATS = 64 * 2**20
PRODUCT_SIDES = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the matrices whose product shows the arithmetic peak of a kind of device."""


@dataclass(frozen=True)
class Timing:
    """Seconds per call: the median and the quartiles of ``samples`` samples of ``calls`` calls each, and all of them.

    ``each`` has the samples in the order in which they were taken, for intervals (:mod:`ht_kernels.bench.compare`).
    """

    median: float
    lower: float
    upper: float
    samples: int
    calls: int
    each: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float], calls: int) -> Timing:
        """The timing of samples ``values``, each of so many calls."""
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper, len(values), calls, tuple(round(value, 9) for value in values))


def interleave(calls: Mapping[str, Call], seconds: float, device: torch.device | str = "cpu") -> dict[str, Timing]:
    """Time ``calls`` in turn, A B C A B C ..., so that other load on the machine affects all of them alike.

    Args:
        calls: the calls to time, by name. Each is first called twice without being counted, and before a sample
            :func:`uncounted` times.
        seconds: the time to spend on all calls together; at least ``MIN_SAMPLES`` samples of each are taken.
        device: where the calls compute. A sample on a GPU ends when the GPU is done.
    """
    repeats = {}
    on_gpu = torch.device(device).type == "cuda"
    for name, call in calls.items():
        call()
        repeats[name] = max(1, round(SAMPLE_SECONDS / max(_time(call, 1, on_gpu), 1e-9)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    for index in range(MAX_SAMPLES):
        if index >= MIN_SAMPLES and time.perf_counter() > end:
            break
        for name, call in calls.items():
            for _ in range(uncounted(repeats[name])):
                call()
            samples[name].append(_time(call, repeats[name], on_gpu))
    return {name: Timing.of(values, repeats[name]) for name, values in samples.items()}


def uncounted(calls: int) -> int:
    """How often a call is made before a sample of ``calls`` calls: once, if it is short.

    A short call finds in the caches what the call before it left there, as in a model. After a copy that is larger than
    the caches, the adapter of 8 images takes a seventh longer.
    """
    return int(calls > 1)


def copy_call(device: torch.device | str = "cpu") -> tuple[Call, int]:
    """A copy that is far larger than the caches, and the bytes that it reads plus writes."""
    source = torch.ones(COPIED_FLOATS, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2 * source.nbytes


def product_call(dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> tuple[Call, int]:
    """A large matrix product in torch, and its floating-point operations."""
    side = PRODUCT_SIDES[torch.device(device).type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out), 2 * side**3


def copy_bandwidth() -> float:
    """Measure the bytes per second, read plus written, of a copy on the CPU: those of the fastest of seven."""
    call, count = copy_call()
    return count / _fastest(call)


def float32_peak() -> float:
    """Measure the operations per second of a float32 matrix product on the CPU: those of the fastest of seven."""
    call, count = product_call()
    return count / _fastest(call)


def _time(call: Call, repeats: int, on_gpu: bool = False) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    if on_gpu:
        torch.cuda.synchronize()  # a GPU goes on after a call has returned
    return (time.perf_counter() - start) / repeats


def _fastest(call: Call) -> float:
    call()
    return min(_time(call, 1) for _ in range(7))
