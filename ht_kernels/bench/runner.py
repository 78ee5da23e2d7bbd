"""Runs the cases: checks that the implementations agree, then times them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from ht_kernels.errors import first_line
from ht_kernels.ops.dispatch import available_backends

from .cases import LABELS, Case
from .measure import Timing, copy_bandwidth, float32_peak, interleave

TOLERANCE = 1e-4
"""Largest relative L2 difference from the published result at which a time still counts."""


@dataclass(frozen=True)
class Limits:
    """What this machine can do, measured in the same run: bytes per second copied, float32 operations per second."""

    bandwidth: float
    flops: float

    @classmethod
    def measure(cls) -> Limits:
        return cls(copy_bandwidth(), float32_peak())

    def floors(self, case: Case) -> dict[str, float]:
        """Seconds below which no implementation of ``case`` can get here; empty where none is defined."""
        floors = {}
        if case.bytes:
            floors["memory floor"] = case.bytes / self.bandwidth
        if case.flops:
            floors["float32 arithmetic floor"] = case.flops / self.flops
        return floors


@dataclass(frozen=True)
class Result:
    """One case: a timing and a difference from eager for each implementation, and the floors.

    Attributes:
        timings: seconds per call, by implementation.
        differences: relative L2 difference from the eager result, by implementation.
        floors: seconds per call.
    """

    case: Case
    timings: dict[str, Timing]
    differences: dict[str, float]
    floors: dict[str, float]

    def ratio(self, baseline: str) -> float | None:
        """How many times faster ours is than ``baseline``."""
        return self.timings[baseline].median / self.timings["ours"].median if baseline in self.timings else None


def run(
    cases: Collection[Case], names: Collection[str], seconds: float, say: Callable[[str], None]
) -> tuple[list[Result], Limits]:
    """Measure the limits, then every case; ``say`` is told a line after each.

    Args:
        names: implementations; ``compile`` is left out where torch.compile does not work.
        seconds: time per case.
    """
    limits = Limits.measure()
    say(f"threads: {torch.get_num_threads()}; backends: {', '.join(available_backends())}")
    say(f"copy {limits.bandwidth / 1e9:.1f} GB/s, float32 matrix product {limits.flops / 1e9:.0f} GFLOP/s")
    if "compile" in names and (reason := _why_not_compile()):
        say(f"torch.compile is left out, it does not work here: {reason}")
        names = [name for name in names if name != "compile"]
    results = []
    for case in cases:
        result = run_case(case, names, seconds, limits)
        results.append(result)
        say(f"{case}: " + ", ".join(f"{LABELS[n]} {milliseconds(t.median)} ms" for n, t in result.timings.items()))
    return results, limits


def run_case(case: Case, names: Collection[str], seconds: float, limits: Limits) -> Result:
    """Check that the implementations agree, then time them.

    Raises:
        RuntimeError: an implementation differs from eager by more than ``TOLERANCE``: its time would mean nothing.
    """
    calls = case.calls(names)
    results: dict[str, Tensor] = {name: call().detach().double().clone() for name, call in calls.items()}
    truth = results["eager"]
    differences = {name: float((result - truth).norm() / truth.norm()) for name, result in results.items()}
    for name, difference in differences.items():
        if not difference <= TOLERANCE:
            raise RuntimeError(
                f"{case}: {LABELS[name]} differs from eager by {difference:.1e}, allowed {TOLERANCE:.0e}"
            )
    return Result(case, interleave(calls, seconds), differences, limits.floors(case))


def times(ratio: float) -> str:
    """A ratio in words: ``6.1x``."""
    return f"{ratio:.1f}x" if ratio < 10 else f"{ratio:.0f}x"


def milliseconds(seconds: float) -> str:
    """Seconds as milliseconds, to three digits."""
    value = 1e3 * seconds
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _why_not_compile() -> str | None:
    """None where torch.compile works; it needs a C++ compiler at run time."""
    try:
        torch.compile(torch.sin)(torch.ones(16))
    except Exception as error:  # whatever it is, the other implementations can still be timed
        return first_line(error)
    return None
