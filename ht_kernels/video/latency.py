"""Latencies, and other positive numbers, in memory that does not grow, however long a stream runs."""

from __future__ import annotations

import math

import numpy as np

_SMALLEST, _RATIO, _BINS = 1e-6, 1.01, 3000  # up to 9 million


class Histogram:
    """Counts latencies in bins that are 1 % wide. The largest latency and the number of them are exact."""

    def __init__(self) -> None:
        self.count = 0
        self.largest = 0.0
        self._bins = np.zeros(_BINS, dtype=np.int64)

    def add(self, seconds: float) -> None:
        """Count one value."""
        self.count += 1
        self.largest = max(self.largest, seconds)
        place = math.ceil(math.log(max(seconds, _SMALLEST) / _SMALLEST) / math.log(_RATIO))
        self._bins[min(place, _BINS - 1)] += 1

    def percentile(self, percent: float) -> float:
        """The seconds that ``percent`` percent of the latencies do not exceed; at most 1 % too large."""
        place = int(np.searchsorted(np.cumsum(self._bins), math.ceil(self.count * percent / 100)))
        return min(_SMALLEST * _RATIO**place, self.largest)

    def summary(self, *percents: int) -> dict[str, float] | None:
        """Percentiles by name (``median``, ``p95``), for a report; None where there are no values."""
        if not self.count:
            return None
        return {"median" if p == 50 else f"p{p}": round(self.percentile(p), 4) for p in percents}

    def milliseconds(self) -> dict[str, float]:
        """p50, p95, p99 and max, for a report."""
        rows = {f"p{percent}": self.percentile(percent) for percent in (50, 95, 99)}
        return {name: round(1e3 * value, 3) for name, value in (*rows.items(), ("max", self.largest))}
