"""The runner: it checks that the implementations of a case agree, and then times them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ht_kernels.errors import reason
from ht_kernels.ops.dispatch import available_backends
from ht_kernels.progress import Watch, unwatched, watched

from .cases import LABELS, Case
from .measure import Timing, copy_bandwidth, float32_peak, interleave
from .text import milliseconds

TOLERANCE = 1e-4
"""The largest allowed relative L2 difference from the published result. Beyond it, timing would be meaningless."""


@dataclass(frozen=True)
class Limits:
    """The limits of this machine, measured in the same run.

    ``bandwidth`` is in bytes per second, read plus written; ``flops`` is in float32 operations per second.
    """

    bandwidth: float
    flops: float

    @classmethod
    def measure(cls) -> Limits:
        return cls(copy_bandwidth(), float32_peak())

    def floors(self, case: Case) -> dict[str, float]:
        """The least times in seconds that any implementation of ``case`` needs on this machine, by name."""
        floors = {}
        if case.bytes:
            floors["memory floor"] = case.bytes / self.bandwidth
        if case.flops:
            floors["float32 arithmetic floor"] = case.flops / self.flops
        return floors


@dataclass(frozen=True)
class Result:
    """The result of one case.

    Attributes:
        case: the case.
        timings: the timing of each implementation, in seconds per call.
        differences: the relative L2 difference of each implementation's result from the eager result.
        floors: the least possible times of a call, in seconds; see :meth:`Limits.floors`.
    """

    case: Case
    timings: dict[str, Timing]
    differences: dict[str, float]
    floors: dict[str, float]

    def ratio(self, baseline: str) -> float | None:
        """The speed-up of ``ours`` over ``baseline``, or None if ``baseline`` was not timed."""
        return self.timings[baseline].median / self.timings["ours"].median if baseline in self.timings else None


def run(
    cases: Sequence[Case],
    names: Collection[str],
    seconds: float,
    say: Callable[[str], None],
    watch: Watch = unwatched,
) -> tuple[list[Result], Limits]:
    """Measure the limits of the machine, and then every case.

    Args:
        cases: the cases to measure.
        names: the implementations to time. ``compile`` is left out if torch.compile does not work.
        seconds: the time to spend on each case.
        say: receives a line of output for the limits and after each case.
        watch: receives how many cases were timed.
    """
    limits = Limits.measure()
    say(f"threads: {torch.get_num_threads()}; backends: {', '.join(available_backends())}")
    say(f"copy {limits.bandwidth / 1e9:.1f} GB/s, float32 matrix product {limits.flops / 1e9:.0f} GFLOP/s")
    if "compile" in names and (why := _why_not_compile()):
        say(f"torch.compile is left out, it does not work here: {why}")
        names = [name for name in names if name != "compile"]
    results = []
    for case in watched(cases, "timing", watch):
        result = run_case(case, names, seconds, limits)
        results.append(result)
        say(f"{case}: " + ", ".join(f"{LABELS[n]} {milliseconds(t.median)} ms" for n, t in result.timings.items()))
    return results, limits


def run_case(case: Case, names: Collection[str], seconds: float, limits: Limits) -> Result:
    """Check that the implementations agree, then time them.

    Raises:
        RuntimeError: the result of an implementation differs from the eager result by more than ``TOLERANCE``.
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


def _why_not_compile() -> str | None:
    """The reason why torch.compile does not work here, such as a missing C++ compiler; None if it works."""
    try:
        torch.compile(torch.sin)(torch.ones(16))
    except Exception as error:  # whatever the reason, the other implementations can be timed
        return reason(error)
    return None
