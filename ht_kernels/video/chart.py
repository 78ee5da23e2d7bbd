"""The chart of latencies: where a frame's time goes, and how far the slow frames are from the usual one."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ht_kernels.files import png_bytes
from ht_kernels.words import counted

_MARKS = {
    "p50": ("o", "#0072b2", "p50: half of the frames take no longer"),
    "p95": ("D", "#e69f00", "p95: 95 of 100 take no longer"),
    "p99": ("s", "#882255", "p99: 99 of 100 take no longer"),
    "max": ("x", "#333333", "max: the slowest frame"),
}
"""Shape and colour of each mark, and what it means."""

_MEANINGS = {
    "decode": "read the frame from the file",
    "preprocess": "crop it, make it gray, resize it",
    "infer": "run the model",
    "postprocess": "make the mask of what the model gives",
    "overlay": "draw the mask over the frame",
    "sink": "write and show the result",
    "end_to_end": "the work on a frame, without waits",
    "frame_age": "from a frame decoded to its first picture, with waits",
    "mask_delay": "from a frame decoded to the first picture with its mask",
    "mask_age": "how old the masks are that are seen",
}
"""What each row is, in plain words; :meth:`ht_kernels.video.Stream.report` defines them."""

_STAGES = 6  # the rows before end_to_end are stages, the others cover several


def draw(report: dict[str, Any]) -> bytes:
    """A PNG of the ``latency_ms`` of a stream's report, on a logarithmic axis, with what every row and mark means."""
    rows = report["latency_ms"]
    names = [name for name in _MEANINGS if name in rows]
    stages = sum(name in rows for name in list(_MEANINGS)[:_STAGES])
    places = [place + (0.6 if place >= stages else 0.0) for place in range(len(names))]
    figure = Figure(figsize=(9.5, 1.7 + 0.46 * len(names)), layout="constrained", dpi=120)
    axes = figure.subplots()
    axes.hlines(places, [rows[n]["p50"] for n in names], [rows[n]["max"] for n in names], colors="#c4c8cc", zorder=1)
    for mark, (shape, color, meaning) in _MARKS.items():
        values = [max(rows[n][mark], 1e-3) for n in names]
        axes.scatter(values, places, marker=shape, color=color, label=meaning, s=30, clip_on=False, zorder=3)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_yticks(places, [""] * len(places))
    axes.tick_params(axis="y", length=0)
    for place, name in zip(places, names, strict=True):
        _name(axes, place, name)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds")
    live = "live" if report["live"] else "file"
    axes.set_title(f"{counted(report['frames'], 'frame')} ({live}), {report['fps']} frames per second", fontsize=10)
    axes.grid(axis="x", linewidth=0.5, alpha=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return png_bytes(figure)


def _name(axes: Axes, place: float, name: str) -> None:
    """Write the name of a row, and below it what it is, left of the axis."""
    where: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "ha": "right"}
    axes.annotate(name, (0, place), (-6, 1), va="bottom", fontsize=9.5, **where)
    axes.annotate(_MEANINGS[name], (0, place), (-6, 0), va="top", fontsize=8, color="#555555", **where)
