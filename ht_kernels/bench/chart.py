"""The chart of the results: times as shares of the published way's, from 0 on, with lines for the floors."""

from __future__ import annotations

from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ht_kernels.files import png_bytes
from ht_kernels.words import counted

from .cases import IMPLEMENTATIONS, LABELS
from .runner import Result
from .text import milliseconds, times

COLORS = {"eager": "#b4b8bd", "compile": "#6c8ebf", "ours": "#c8501e"}
_PUBLISHED = "eager"
"""The implementation whose time is 1."""

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
    threads = counted(cpu["threads"], "thread")
    figure.suptitle(
        "Hybrid-tuning on ViT-B/16 sizes, float32\n"
        "time per call as a share of the published way's, lower is better\n"
        f"{cpu['model']}, {threads}, torch {packages['torch']}, ht_kernels {facts['ht_kernels']}",
        fontsize=10,
    )
    return png_bytes(figure, "bench")


def _panel(axis: Axes, results: list[Result]) -> None:
    names = [name for name in IMPLEMENTATIONS if any(name in result.timings for result in results)]
    published = [result.timings[_PUBLISHED].median for result in results]
    width = 0.8 / len(names)
    highest = 1.0
    for index, name in enumerate(names):
        offset = (index - (len(names) - 1) / 2) * width
        shown = [(i, t) for i, result in enumerate(results) if (t := result.timings.get(name))]
        shares = [t.median / published[i] for i, t in shown]
        below = [(t.median - t.lower) / published[i] for i, t in shown]
        above = [(t.upper - t.median) / published[i] for i, t in shown]
        bars = axis.bar(
            [i + offset for i, _ in shown], shares, 0.92 * width, color=COLORS[name], label=LABELS[name],
            yerr=[below, above], error_kw={"elinewidth": 0.8, "ecolor": "#333333"},
        )  # fmt: skip
        axis.bar_label(bars, [f"{milliseconds(t.median)} ms" for _, t in shown], fontsize=8, padding=3)
        highest = max(highest, *(share + error for share, error in zip(shares, above, strict=True)))
    for name, style in FLOORS.items():
        floors = [(i, r.floors[name] / published[i]) for i, r in enumerate(results) if name in r.floors]
        if floors:
            axis.hlines(
                [floor for _, floor in floors], [i - 0.46 for i, _ in floors], [i + 0.46 for i, _ in floors],
                colors="black", linestyles=style, linewidth=1.2, label=name,
            )  # fmt: skip
    axis.set_ylim(0, 1.12 * highest)
    axis.set_ylabel("time (published, eager = 1), with quartiles")
    axis.set_title(results[0].case.group, fontsize=11)
    axis.set_xticks(range(len(results)), [_tick(result) for result in results])
    axis.grid(axis="y", which="major", linewidth=0.5, alpha=0.5)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _tick(result: Result) -> str:
    images = counted(result.case.batch, "image")
    ratios = {name: result.ratio(name) for name in IMPLEMENTATIONS if name != "ours"}
    words = [f"{times(ratio)} over {name}" for name, ratio in ratios.items() if ratio]
    return "\n".join([images, *words])
