"""The report of the study: a table and a sentence per share, a chart of all runs, and the learning curves."""

from __future__ import annotations

import math
import statistics as stats
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ht_kernels.files import csv_bytes, png_bytes, write_whole
from ht_kernels.train.metrics import NAMES, conventions

from . import runs, times
from .methods import METHODS, PASSES, Method, Run
from .statistics import Difference, Result, paired, reliability, summary

_COLORS = ("#555555", "#c8501e", "#e3a26f", "#2a7f9e", "#8aa63b", "#b98fc4", "#6c8ebf", "#d6b656", "#7b3f61")
"""A color for each method, in their order."""

_SHADES = {100: "#c8501e", 20: "#6c8ebf", 5: "#b4b8bd"}
"""A color for each share of the training split."""

_FIGURES = {
    "segmentation": {name: NAMES[name] for name in ("dice", "iou", "hd95", "hd95_all")},
    "classification": {"auc": "AUC", "accuracy": "accuracy", "brier": "Brier", "ece": "calibration error"},
}
"""By task, the figures of a table and their headings; the first is the one that is compared."""


def write(output: Path, planned: Sequence[Run]) -> None:
    """Write results.csv, results.md, chart.png and curves.png, from all runs of ``planned`` that are finished.

    For classification, reliability.png is written too. Each file appears complete or not at all.
    """
    results = runs.finished(output, planned)
    if not results:
        return
    measured = times.read(output)
    rows = [_flat(result) for result in results]
    write_whole(output / "results.csv", csv_bytes(rows), "the results")
    text = "\n".join(table(results, len(planned), measured)) + "\n"
    write_whole(output / "results.md", text.encode(), "the table")
    write_whole(output / "chart.png", png_bytes(draw(results)), "the chart")
    write_whole(output / "curves.png", png_bytes(draw_curves(results)), "the learning curves")
    if _task(results) == "classification":
        write_whole(output / "reliability.png", png_bytes(draw_reliability(results)), "the reliability diagram")


def line(result: Result) -> str:
    """The figures of a run in a line."""
    figures = summary(result)
    names = _FIGURES[result["setting"]["task"]]
    return "test " + ", ".join(f"{names[name]} {figures[name]:.3f}" for name in names)


def table(results: Sequence[Result], planned: int, measured: times.Times) -> list[str]:
    """The lines of the report in Markdown: for each share a table with a row per method, and a verdict."""
    first = results[0]
    setting, removed = first["setting"], first["removed"]
    names = _FIGURES[setting["task"]]
    masks = setting["task"] == "segmentation"
    words = [
        f"{len(results)} of {planned} runs are finished.",
        f"Frozen tower: {setting['backbone']} at {setting['image_size']} pixels;",
        f"{setting['epochs']} passes over the training split{_more_passes(results)}.",
        f"{len(first['images'])} test images, {first['val_images']} to validate;",
        f"{removed['train']} images of the training split and {removed['val']} of the validation split were removed",
        "as near duplicates. Means and standard deviations over seeds.",
        *_precisions(results),
        *([conventions(setting["image_size"])] if masks else []),
        "Seconds are for the steps of a pass over the training split, the published way and ours. Intervals are over",
        "test images, averaged over the seeds that both methods have: they do not say how much another seed would",
        "change.",
    ]
    lines = [" ".join(words)]
    for share in PASSES:
        of_share = [result for result in results if result["share"] == share]
        if not of_share:
            continue
        lines += ["", f"## {share} %: {of_share[0]['train_images']} images", ""]
        headings = [*names.values(), *(["nothing found"] if masks else []), "s, published", "s, ours"]
        lines.append(f"| | trained parameters | seeds | {' | '.join(headings)} |")
        lines.append("|---|" + "--:|" * (len(headings) + 2))
        for method, of_method in by_method(of_share):
            figures = [summary(result) for result in of_method]
            cells = [method.label, f"{of_method[0]['trained_parameters']:,}", str(len(of_method))]
            cells += [_spread([f[name] for f in figures], 1 if "hd95" in name else 3) for name in names]
            if masks:
                cells.append(" of ".join(str(sum(int(f[name]) for f in figures)) for name in ("missed", "lesions")))
            steps = measured.get(method.name, {})
            cells += [f"{steps[kind]:.1f}" if kind in steps else "-" for kind in ("published", "ours")]
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", *comparison(of_share), "", verdict(of_share)]
        if masks:
            lines += ["", along_the_way(of_share)]
    return lines


def _precisions(results: Sequence[Result]) -> list[str]:
    """A sentence on each mixed precision that some of the runs were trained in."""
    counts = Counter(result["setting"]["precision"] for result in results)
    return [f"Trained in mixed precision, {name}: {n} of {len(results)}." for name, n in counts.items() if name != "no"]


def _more_passes(results: Sequence[Result]) -> str:
    """A clause that names the methods and the shares with more passes than the others."""
    longer = [(method.passes, f"for {method.label}") for method, _ in by_method(results) if method.passes > 1]
    shares = [share for share in PASSES if any(result["share"] == share for result in results)]
    longer += [(PASSES[share], f"over {share} % of it") for share in shares if PASSES[share] > 1]
    return "".join(f", {times:g} times as many {where}" for times, where in longer)


def comparison(results: Sequence[Result]) -> list[str]:
    """The lines of a table of paired differences in Dice or AUC, with intervals, for one share.

    Each method is compared with heads alone, and with the one of all other methods that validation prefers.
    """
    found = by_method(results)
    if len(found) == 1:
        return []
    heads = next((of_method for method, of_method in found if method.name == "heads"), None)
    lines = [
        f"| {_compared(results)} | above heads alone | 95 % interval | above the other that validation prefers | "
        "| 95 % interval |",
        "|---|--:|--:|--:|---|--:|",
    ]
    for method, of_method in found:
        others = [pair for pair in found if pair[0] is not method]
        rival, theirs = _preferred(others)
        mean, ends = _cells(paired(of_method, heads)) if heads and method.name != "heads" else ("-", "-")
        most, limits = _cells(paired(of_method, theirs))
        lines.append(f"| {method.label} | {mean} | {ends} | {most} | {rival.label} | {limits} |")
    return lines


def _cells(gap: Difference) -> tuple[str, str]:
    return f"{gap.mean:+.3f}", " to ".join(_ends(gap))


def _ends(gap: Difference) -> tuple[str, str]:
    return f"{gap.low:+.3f}", f"{gap.high:+.3f}"


def verdict(results: Sequence[Result]) -> str:
    """A sentence on one share: the best HT method by validation against all others on the test split.

    HT wins if the intervals of the differences from all others are above 0, and does not win if one of them is below 0.
    The sentence names the nearest method in the first case, those that are ahead in the second, and otherwise all that
    HT is not ahead of for certain.
    """
    found, score = by_method(results), _compared(results)
    ours = [pair for pair in found if pair[0].method == "ht"]
    others = [pair for pair in found if pair[0].method != "ht"]
    if not ours or not others:
        return "Too few runs are finished to compare HT with the others."
    best, mine = _preferred(ours)
    gaps = sorted(((paired(mine, theirs), method) for method, theirs in others), key=lambda pair: pair[0].mean)
    ahead = [pair for pair in gaps if pair[0].high < 0]
    unsure = [pair for pair in gaps if pair[0].low <= 0]
    if ahead:
        return f"HT does not win: {best.label} is below {_listed(ahead)} in {score}."
    if unsure:
        return f"HT does not win for certain: in {score}, {best.label} is not surely above {_listed(unsure)}."
    return f"HT wins: {best.label} is above all others in {score}, nearest to {_listed(gaps[:1])}."


def _listed(gaps: Sequence[tuple[Difference, Method]]) -> str:
    """Methods, each with how far HT is ahead of it and the interval."""
    words = [f"{method.label} ({gap.mean:+.3f}, 95 % interval {' to '.join(_ends(gap))})" for gap, method in gaps]
    return ", ".join([*words[:-2], " and ".join(words[-2:])])


def along_the_way(results: Sequence[Result]) -> str:
    """A sentence on each HT method: in how many validations, from the second on, it was not below heads alone.

    Runs of the same seed are compared. The sentence is empty if there is nothing to compare.
    """
    curves = {(r["method"], r["seed"]): [row["val_dice"] for row in r["curve"] if "val_dice" in row] for r in results}
    parts = []
    for method, of_method in by_method(results):
        seeds = [r["seed"] for r in of_method if ("heads", r["seed"]) in curves]
        if method.method != "ht" or not seeds:
            continue
        pairs = [pair for s in seeds for pair in zip(curves[method.name, s][1:], curves["heads", s][1:], strict=False)]
        parts.append(f"{method.label} in {sum(ht >= heads for ht, heads in pairs)} of {len(pairs)}")
    if not parts:
        return ""
    return f"Validations from the second on in which HT was not below heads alone of the same seed: {', '.join(parts)}."


def draw(results: Sequence[Result]) -> Figure:
    """A bar for the mean of each method and share, with a dot for each seed."""
    name, label = next(iter(_FIGURES[_task(results)].items()))
    figure = Figure(figsize=(9, 5.4), layout="constrained", dpi=120)
    axes = figure.subplots()
    shares = [share for share in PASSES if any(result["share"] == share for result in results)]
    shown = [method for method, _ in by_method(results)]
    height = 0.8 / len(shares)
    for place, share in enumerate(shares):
        for method, of_method in by_method([r for r in results if r["share"] == share]):
            y = shown.index(method) + (place - (len(shares) - 1) / 2) * height
            values = [summary(result)[name] for result in of_method]
            axes.barh(y, stats.mean(values), 0.9 * height, color=_SHADES[share])
            axes.plot(values, [y] * len(values), "o", color="black", markersize=2.5)
            axes.text(max(values) + 0.01, y, f"{stats.mean(values):.3f}", fontsize=8, va="center")
    for share in shares:
        axes.barh(0, 0, color=_SHADES[share], label=f"{share} % of the training split")
    axes.set_yticks(range(len(shown)), [method.label for method in shown])
    axes.set(xlabel=f"{label} on the test split: mean, and each seed", xlim=(0, 1), ylim=(len(shown) - 0.4, -0.6))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside lower center", ncols=len(shares))
    return figure


def draw_curves(results: Sequence[Result]) -> Figure:
    """Training loss and validation score over the course of training, on the largest share: a line per run.

    Methods differ in color. They may differ in passes, so the axis is the share of a run's epochs.
    """
    share = max(result["share"] for result in results)
    score = {"segmentation": ("val_dice", "Dice"), "classification": ("val_accuracy", "accuracy")}[_task(results)]
    figure = Figure(figsize=(11, 4.8), layout="constrained", dpi=120)
    panels = figure.subplots(1, 2)
    for method, of_method in by_method([r for r in results if r["share"] == share]):
        for number, result in enumerate(of_method):
            last = result["curve"][-1]["epoch"]
            for axes, name in zip(panels, ("loss", score[0]), strict=True):
                points = [(100 * row["epoch"] / last, row[name]) for row in result["curve"] if name in row]
                color = _COLORS[METHODS.index(method)]
                axes.plot(*zip(*points, strict=True), color=color, linewidth=1.2, label="" if number else method.label)
    for axes, title in zip(panels, ("training loss", f"{score[1]} on the validation split"), strict=True):
        axes.set_xlabel("epochs done, %")
        axes.set_title(title, fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=4)
    return figure


def draw_reliability(results: Sequence[Result]) -> Figure:
    """The share of malignant lesions over the predicted probability, on the largest share: a line per method."""
    share = max(result["share"] for result in results)
    figure = Figure(figsize=(5.6, 5.4), layout="constrained", dpi=120)
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), color="black", linestyle="dotted", linewidth=1, label="as predicted")
    for method, of_method in by_method([r for r in results if r["share"] == share]):
        points = reliability(of_method)
        color = _COLORS[METHODS.index(method)]
        chances, shares = [p[0] for p in points], [p[1] for p in points]
        axes.plot(chances, shares, "o-", color=color, markersize=4, label=method.label, clip_on=False)
    axes.set(xlabel="predicted probability of malignant", ylabel="share that is malignant", xlim=(0, 1), ylim=(0, 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def by_method(results: Sequence[Result]) -> list[tuple[Method, list[Result]]]:
    """The methods that have results, in the order of ``METHODS``, each with its results."""
    found = ((method, [result for result in results if result["method"] == method.name]) for method in METHODS)
    return [(method, of_method) for method, of_method in found if of_method]


def _task(results: Sequence[Result]) -> str:
    task: str = results[0]["setting"]["task"]
    return task


def _preferred(found: Sequence[tuple[Method, list[Result]]]) -> tuple[Method, list[Result]]:
    """The method with the highest score on the validation split, and its results: the test split only compares.

    The score is a mean over the seeds that all methods have, because each seed draws other images to train on.
    """
    common = set.intersection(*({result["seed"] for result in of_method} for _, of_method in found))

    def score(pair: tuple[Method, list[Result]]) -> float:
        return stats.mean(result["val_score"] for result in pair[1] if not common or result["seed"] in common)

    return max(found, key=score)


def _compared(results: Sequence[Result]) -> str:
    """The name of the figure that is compared."""
    return next(iter(_FIGURES[_task(results)].values()))


def _spread(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation over seeds, of those that have the figure."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return "-"
    mean = f"{stats.mean(known):.{digits}f}"
    return f"{mean} ± {stats.stdev(known):.{digits}f}" if len(known) > 1 else mean


def _flat(result: Result) -> dict[str, Any]:
    """A run as a row of results.csv."""
    nested = ("setting", "removed", "curve", "images", "environment")
    return {k: v for k, v in result.items() if k not in nested} | result["setting"] | summary(result)
