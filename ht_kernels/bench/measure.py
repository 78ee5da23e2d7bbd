"""Interleaved timing, and the measurement of the machine's memory bandwidth and arithmetic peak."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Call = Callable[[], object]

SAMPLE_SECONDS = 0.005
"""The duration of a sample. Shorter calls are repeated within a sample, so that the cost of reading the clock does not
matter."""

MIN_SAMPLES = 5
MAX_SAMPLES = 200


@dataclass(frozen=True)
class Timing:
    """Seconds per call: the median and the quartiles of ``samples`` samples of ``calls`` calls each."""

    median: float
    lower: float
    upper: float
    samples: int
    calls: int


def interleave(calls: Mapping[str, Call], seconds: float) -> dict[str, Timing]:
    """Time ``calls`` in turn, A B C A B C ..., so that other load on the machine affects all of them alike.

    Args:
        calls: the calls to time, by name. Each is first called twice without being counted.
        seconds: the time to spend on all calls together; at least ``MIN_SAMPLES`` samples of each are taken.
    """
    repeats = {}
    for name, call in calls.items():
        call()
        repeats[name] = max(1, round(SAMPLE_SECONDS / max(_time(call, 1), 1e-9)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    for index in range(MAX_SAMPLES):
        if index >= MIN_SAMPLES and time.perf_counter() > end:
            break
        for name, call in calls.items():
            samples[name].append(_time(call, repeats[name]))
    timings = {}
    for name, values in samples.items():
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        timings[name] = Timing(median, lower, upper, len(values), repeats[name])
    return timings


def copy_bandwidth() -> float:
    """Measure the bytes per second, read plus written, of a copy that is far larger than the caches."""
    source = torch.ones(64 * 2**20)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _fastest(lambda: target.copy_(source))


def float32_peak() -> float:
    """Measure the floating-point operations per second that torch reaches in a large float32 matrix product."""
    size = 2048
    a, b, out = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
    return 2 * size**3 / _fastest(lambda: torch.mm(a, b, out=out))


def _time(call: Call, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _fastest(call: Call) -> float:
    call()
    return min(_time(call, 1) for _ in range(7))
