"""Runs cases, and writes what came of them: results.json, chart.png and a table."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ht_kernels import environment
from ht_kernels.backends import available_backends

from .cases import IMPLEMENTATIONS, LABELS, Case
from .measure import Timing, copy_bandwidth, float32_peak, interleave

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TOLERANCE = 1e-4
"""Largest relative L2 difference from the published result at which a time still counts."""

COLORS = {"eager": "#b4b8bd", "compile": "#6c8ebf", "ours": "#c8501e"}
FLOORS: dict[str, Literal["dotted", "solid"]] = {"memory floor": "dotted", "float32 arithmetic floor": "solid"}
"""The floors of :meth:`Limits.floors`, and how the chart draws them."""


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


def table(results: list[Result]) -> list[str]:
    """The results as aligned lines: milliseconds per call, medians."""
    baselines = [name for name in IMPLEMENTATIONS if name != "ours"]
    header = ["", *[LABELS[name] for name in IMPLEMENTATIONS], *[f"over {name}" for name in baselines], "floor"]
    rows = [header]
    for result in results:
        times = [_milliseconds(t.median) if (t := result.timings.get(n)) else "-" for n in IMPLEMENTATIONS]
        ratios = [_times(ratio) if (ratio := result.ratio(name)) else "-" for name in baselines]
        floor = _milliseconds(max(result.floors.values())) if result.floors else "-"
        rows.append([str(result.case), *times, *ratios, floor])
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def write(results: list[Result], limits: Limits, directory: Path) -> list[Path]:
    """Write results.json and chart.png into ``directory``, each whole or not at all."""
    facts = environment.describe()
    document = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "unit": "seconds per call",
        "limits": {"copy_bytes_per_second": limits.bandwidth, "float32_operations_per_second": limits.flops},
        "results": [_plain(result) for result in results],
        "environment": facts,
    }
    directory.mkdir(parents=True, exist_ok=True)
    files = {"results.json": (json.dumps(document, indent=2) + "\n").encode(), "chart.png": _chart(results, facts)}
    for name, content in files.items():
        partial = directory / f".{name}.partial"
        partial.write_bytes(content)
        os.replace(partial, directory / name)
    return [directory / name for name in files]


def _plain(result: Result) -> dict[str, Any]:
    return {
        "part": result.case.part,
        "group": result.case.group,
        "batch": result.case.batch,
        "floors": result.floors,
        "implementations": {
            name: {**asdict(timing), "difference": result.differences[name]} for name, timing in result.timings.items()
        },
    }


def _chart(results: list[Result], facts: dict[str, Any]) -> bytes:
    """Grouped bars on a logarithmic axis, one panel per group, with the floors as lines across each batch size."""
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys(result.case.group for result in results))
    columns = min(2, len(groups))
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(6.6 * columns, 4.2 * rows + 1.0), layout="constrained", dpi=150)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, group in zip(axes, groups, strict=False):
        _panel(axis, [result for result in results if result.case.group == group])
    for axis in axes[len(groups) :]:
        axis.remove()
    entries: dict[str, Any] = {}
    for axis in axes[: len(groups)]:
        handles, labels = axis.get_legend_handles_labels()
        entries.update(zip(labels, handles, strict=True))
    order = [label for label in (*LABELS.values(), *FLOORS) if label in entries]
    handles = [entries[label] for label in order]
    figure.legend(handles, order, loc="outside lower center", ncols=3 if columns == 1 else 5, frameon=False)
    cpu, packages = facts["cpu"], facts["packages"]
    figure.suptitle(
        f"Hybrid-tuning on ViT-B/16 sizes, float32: time per call, lower is better\n"
        f"{cpu['model']}, {cpu['threads']} threads, torch {packages['torch']}, ht_kernels {facts['ht_kernels']}",
        fontsize=11,
    )
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _panel(axis: Axes, results: list[Result]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    names = [name for name in IMPLEMENTATIONS if any(name in result.timings for result in results)]
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        offset = (index - (len(names) - 1) / 2) * width
        shown = [(place + offset, t) for place, r in enumerate(results) if (t := r.timings.get(name))]
        median = [1e3 * t.median for _, t in shown]
        quartiles = [[1e3 * (t.median - t.lower) for _, t in shown], [1e3 * (t.upper - t.median) for _, t in shown]]
        bars = axis.bar(
            [x for x, _ in shown], median, 0.92 * width, color=COLORS[name], label=LABELS[name],
            yerr=quartiles, error_kw={"elinewidth": 0.8, "ecolor": "#333333"},
        )  # fmt: skip
        axis.bar_label(bars, [_milliseconds(value / 1e3) for value in median], fontsize=8, padding=3)
    for name, style in FLOORS.items():
        floors = [(place, r.floors[name]) for place, r in enumerate(results) if name in r.floors]
        if floors:
            axis.hlines(
                [1e3 * floor for _, floor in floors], [x - 0.46 for x, _ in floors], [x + 0.46 for x, _ in floors],
                colors="black", linestyles=style, linewidth=1.2, label=name,
            )  # fmt: skip
    axis.set_yscale("log")
    lowest = min(min([t.median for t in r.timings.values()] + list(r.floors.values())) for r in results)
    highest = max(t.upper for r in results for t in r.timings.values())
    axis.set_ylim(1e3 * lowest / 1.6, 1e3 * highest * 2.0)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_ylabel("milliseconds per call")
    axis.set_title(results[0].case.group, fontsize=11)
    axis.set_xticks(range(len(results)), [_tick(result) for result in results])
    axis.grid(axis="y", which="major", linewidth=0.5, alpha=0.5)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _tick(result: Result) -> str:
    images = f"{result.case.batch} image{'s' if result.case.batch > 1 else ''}"
    ratios = {name: result.ratio(name) for name in IMPLEMENTATIONS if name != "ours"}
    words = [f"{_times(ratio)} over {name}" for name, ratio in ratios.items() if ratio]
    return "\n".join([images, *words])


def _times(ratio: float) -> str:
    return f"{ratio:.1f}x" if ratio < 10 else f"{ratio:.0f}x"


def _milliseconds(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _commit() -> str | None:
    """The source tree's commit, with ``-dirty`` for changed files; None when installed without one."""
    source = Path(__file__).resolve().parents[2]
    if not (source / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(source), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _why_not_compile() -> str | None:
    """None where torch.compile works; it needs a C++ compiler at run time."""
    try:
        torch.compile(torch.sin)(torch.ones(16))
    except Exception as error:  # whatever it is, the other implementations can still be timed
        return str(error).strip().splitlines()[0]
    return None


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
        say(f"{case}: " + ", ".join(f"{LABELS[n]} {_milliseconds(t.median)} ms" for n, t in result.timings.items()))
    return results, limits
