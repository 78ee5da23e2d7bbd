"""The chart of the ladder: a panel per model, a bar per way, on a linear axis from 0."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ht_kernels.bench.text import milliseconds
from ht_kernels.files import png_bytes

COLORS = {"published": "#9aa0a6", "ours": "#c8501e"}


def draw(rows: list[dict[str, Any]]) -> bytes:
    """Lower quartiles of milliseconds per frame, as PNG."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    most = max(sum(row["model"] == name and "seconds" in row for row in rows) for name in models)
    figure = Figure(figsize=(7.0 * len(models), 0.42 * most + 1.4), layout="constrained", dpi=150)
    for axis, name in zip(figure.subplots(1, len(models), squeeze=False)[0], models, strict=True):
        shown = [row for row in rows if row["model"] == name and "seconds" in row]
        values = [1e3 * float(np.quantile(row["seconds"], 0.25)) for row in shown]
        bars = axis.barh(
            [f"{row['way']}, {row['precision']}" for row in shown], values, color=[COLORS[r["graph"]] for r in shown]
        )
        axis.bar_label(bars, [milliseconds(value / 1e3) for value in values], padding=3, fontsize=9)
        axis.set_xlim(0, 1.15 * max(values, default=1.0))
        axis.invert_yaxis()
        axis.set_xlabel("milliseconds per frame, lower quartile")
        axis.set_title(name)
        axis.spines[["top", "right"]].set_visible(False)
    return png_bytes(figure)
