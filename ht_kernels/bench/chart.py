"""The chart of the results: grouped bars on a logarithmic axis, with lines for the floors."""

from __future__ import annotations

from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ht_kernels.files import png_bytes

from .cases import IMPLEMENTATIONS, LABELS
from .runner import Result
from .text import milliseconds, times

COLORS = {"eager": "#b4b8bd", "compile": "#6c8ebf", "ours": "#c8501e"}
FLOORS: dict[str, Literal["dotted", "solid"]] = {"memory floor": "dotted", "float32 arithmetic floor": "solid"}
"""The line style of each floor of :meth:`ht_kernels.bench.runner.Limits.floors`."""


def draw(results: list[Result], facts: dict[str, Any]) -> bytes:
    """Draw the chart as a PNG file, with a panel per group of cases; the floors are lines across each batch size."""
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
    return png_bytes(figure)


def _panel(axis: Axes, results: list[Result]) -> None:
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
        axis.bar_label(bars, [milliseconds(value / 1e3) for value in median], fontsize=8, padding=3)
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
    words = [f"{times(ratio)} over {name}" for name, ratio in ratios.items() if ratio]
    return "\n".join([images, *words])
