"""The chart of latencies: where a frame's time goes, and how far the slow frames are from the usual one."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from ht_kernels.files import png_bytes

_MARKS = {"p50": ("o", "#2a7f9e"), "p95": ("D", "#e0a030"), "p99": ("s", "#c8501e"), "max": ("x", "#555555")}


def draw(report: dict[str, Any]) -> bytes:
    """A PNG of the ``latency_ms`` of a stream's report, on a logarithmic axis."""
    rows = report["latency_ms"]
    names, places = list(rows), range(len(rows))
    figure = Figure(figsize=(8, 1.4 + 0.42 * len(names)), layout="constrained", dpi=120)
    axes = figure.subplots()
    axes.hlines(places, [rows[n]["p50"] for n in names], [rows[n]["max"] for n in names], colors="#c4c8cc", zorder=1)
    for mark, (shape, color) in _MARKS.items():
        axes.scatter([max(rows[n][mark], 1e-3) for n in names], places, marker=shape, color=color, label=mark, s=30)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_yticks(list(places), [name.replace("_", " ") for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds per frame")
    axes.set_title(f"{report['frames']} frames, {report['fps']} frames per second", fontsize=10)
    axes.grid(axis="x", linewidth=0.5, alpha=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return png_bytes(figure)
