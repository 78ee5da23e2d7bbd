"""The report of the comparison: results.csv with every run, a table in Markdown and a chart."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ht_kernels.files import csv_bytes, png_bytes, write_whole

from .runs import METHODS, RATIOS, Method
from .times import Times

Row = dict[str, Any]

_COLORS = {100: "#c8501e", 20: "#6c8ebf", 5: "#b4b8bd"}
_COLUMNS = (
    "trained parameters",
    "seeds",
    "Dice",
    "IoU",
    "Dice, no near duplicate",
    "validation Dice",
    "CPU s, run",
    "s, steps published",
    "s, steps ours",
)
_NOTE = (
    "The shipped tower was trained together with its adapters. So a method without adapters starts from a tower that "
    "lacks a part, and one with new adapters from a tower whose part was replaced; the last two rows keep the part."
)


def write(rows: Sequence[Row], planned: int, times: Times, output: Path) -> None:
    """Write results.csv, results.md and chart.png. Each file appears complete or not at all.

    ``planned`` is the number of runs that were asked for.
    """
    write_whole(output / "results.csv", _csv(rows), "the results")
    write_whole(output / "results.md", ("\n".join(table(rows, planned, times)) + "\n").encode(), "the table")
    write_whole(output / "chart.png", draw(rows), "the chart")


def table(rows: Sequence[Row], planned: int, times: Times) -> list[str]:
    """The lines of the report in Markdown.

    For each share of the training split there is a table with a row per method, with means and standard deviations over
    seeds.
    """
    setting, first = rows[0]["setting"], rows[0]
    passes = f"{setting['epochs']} passes over the training split, or as many images of a share of it"
    lines = [
        f"{len(rows)} of {planned} runs are finished. {passes}; batches of {setting['batch']}, learning rate "
        f"{setting['learning_rate']:g}; {first['test_images']} images in the test split, "
        f"{first['test_images_unseen']} of them without a near duplicate in the training split. Means and standard "
        "deviations over seeds. Seconds are for a pass over the training split: CPU time of the whole run, validation "
        "included, and time of the model's steps alone, the published way and ours, where that was measured.",
        "",
        _NOTE,
    ]
    for ratio in RATIOS:
        of_ratio = [row for row in rows if row["ratio"] == ratio]
        if not of_ratio:
            continue
        lines += ["", f"## {ratio} %: {of_ratio[0]['train_images']} images", ""]
        lines += [f"| | {' | '.join(_COLUMNS)} |", "|---|" + "--:|" * len(_COLUMNS)]
        for method, runs in _by_method(of_ratio):
            figures = [_spread(runs, name) for name in ("dice", "iou", "dice_unseen", "val_dice")]
            cells = [method.label, f"{runs[0]['trained_parameters']:,}", str(len(runs)), *figures]
            cells.append(f"{statistics.mean(run['cpu_seconds_per_pass'] for run in runs):.1f}")
            steps = times.get(method.name, {})
            cells += [f"{steps[kind]:.1f}" if kind in steps else "-" for kind in ("published", "ours")]
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", verdict(of_ratio)]
    return lines


def verdict(rows: Sequence[Row]) -> str:
    """A sentence that compares the two hybrids with the best other method that starts without the shipped adapters."""
    means = {m.name: statistics.mean(r["dice"] for r in runs) for m, runs in _by_method(rows) if not m.keep}
    labels = {m.name: m.label for m in METHODS}
    others = {name: mean for name, mean in means.items() if not name.startswith("hybrid")}
    hybrids = [name for name in means if name.startswith("hybrid")]
    if not others or not hybrids:
        return "Too few runs are finished to compare the hybrids with the others."
    best = max(others, key=lambda name: others[name])
    words = []
    for name in hybrids:
        gap = means[name] - others[best]
        words.append(f"{labels[name]} is {abs(gap):.3f} {'above' if gap > 0 else 'below'} it")
    return f"The best of the others without the shipped adapters is {labels[best]}: {'; '.join(words)} in mean Dice."


def draw(rows: Sequence[Row]) -> bytes:
    """Draw a bar for the mean test Dice of each method and share of the data, and a dot for each seed."""
    figure = Figure(figsize=(9, 5.4), layout="constrained", dpi=120)
    axes = figure.subplots()
    ratios = [ratio for ratio in RATIOS if any(row["ratio"] == ratio for row in rows)]
    height = 0.8 / len(ratios)
    places = {method.name: place for place, method in enumerate(METHODS)}
    for index, ratio in enumerate(ratios):
        of_ratio = _by_method([row for row in rows if row["ratio"] == ratio])
        at = [places[m.name] + (index - (len(ratios) - 1) / 2) * height for m, _ in of_ratio]
        dice = [[run["dice"] for run in runs] for _, runs in of_ratio]
        means = [statistics.mean(values) for values in dice]
        axes.barh(at, means, 0.9 * height, color=_COLORS[ratio], label=f"{ratio} % of the training split")
        for values, y in zip(dice, at, strict=True):
            axes.text(max(values) + 0.012, y, f"{statistics.mean(values):.3f}", fontsize=8, va="center")
        dots = [(value, y) for values, y in zip(dice, at, strict=True) for value in values]
        axes.plot([x for x, _ in dots], [y for _, y in dots], "o", color="black", markersize=2.5)
    axes.set_yticks(range(len(METHODS)), [method.label for method in METHODS])
    axes.set(xlabel="Dice on the test split: mean, and each seed", xlim=(0, 1), ylim=(len(METHODS) - 0.4, -0.6))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right")
    return png_bytes(figure)


def _by_method(rows: Sequence[Row]) -> list[tuple[Method, list[Row]]]:
    """The methods that have rows, in the order of ``METHODS``, each with its rows."""
    found = ((method, [row for row in rows if row["method"] == method.name]) for method in METHODS)
    return [(method, runs) for method, runs in found if runs]


def _spread(runs: Sequence[Row], name: str) -> str:
    values = [run[name] for run in runs]
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def _csv(rows: Sequence[Row]) -> bytes:
    flat = [{**{k: v for k, v in row.items() if k != "setting"}, **row["setting"]} for row in rows]
    return csv_bytes(flat)
