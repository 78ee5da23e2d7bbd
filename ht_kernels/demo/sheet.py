"""The contact sheet: what the demo found, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from ht_kernels.class_colors import COLORS
from ht_kernels.media.frames import Frame
from ht_kernels.video import Shown
from ht_kernels.video.stream import STAGES

from .breast import CREDIT, Segmented
from .clips import HeartClip, PhantomClip
from .comparison import Comparison

MASK = "#{:02x}{:02x}{:02x}".format(*COLORS[1])
"""The colour of a mask, as in the overlay of a stream."""

TRUTH = "#ffaa00"
UNFAMILIAR = "#c8501e"
PUBLISHED, OURS = "#8d99a6", "#c8501e"
P50, P95 = "#2a7f9e", "#b5d3de"

SMALL, USUAL, LARGE = 9, 10.5, 11.5
"""Sizes of text, in points."""


def draw(breast: Sequence[Segmented], phantom: PhantomClip, heart: HeartClip, comparison: Comparison) -> Figure:
    """Draw images, clips, latencies and the comparison in panels a to e.

    The model that made ``breast`` and ``heart`` must be calibrated, so that every frame has a distance.
    """
    figure = Figure(figsize=(12, 10), layout=ConstrainedLayoutEngine(h_pad=0.07), dpi=200)
    top, middle, bottom = figure.subfigures(3, 1, squeeze=False, height_ratios=(5, 2.5, 2.5))[:, 0]
    _draw_breast(top, breast, heart.report["familiarity"]["limit"])
    left, right = middle.subfigures(1, 2, width_ratios=[_aspect(clip.shown[0].frame) for clip in (phantom, heart)])
    _draw_phantom(left, phantom)
    _draw_heart(right, heart)
    left, right = bottom.subfigures(1, 2)
    _draw_latencies(left, heart.report)
    _draw_comparison(right, comparison)
    return figure


def _draw_breast(figure: SubFigure, breast: Sequence[Segmented], limit: float) -> None:
    """The images above; below them the same with the mask and the expert's outline."""
    _title(figure, "a", f"Breast ultrasound, not trained on, by size of the lesion ({CREDIT})")
    grid = figure.subplots(2, len(breast), width_ratios=[_aspect(segmented.sample.image) for segmented in breast])
    for (above, below), segmented in zip(grid.T, breast, strict=True):
        sample, shown = segmented.sample, segmented.shown
        _show(above, sample.image)
        above.set_title(sample.name, fontsize=USUAL)
        _show(below, sample.image, shown.mask, sample.truth)
        for line, words in enumerate(_words(segmented)):
            _caption(below, words, line, weight="normal" if line else "bold")
    distance = f"distance from the training images; limit {limit:.2f}"
    keys: list[Artist] = [
        Patch(facecolor=(MASK, 0.3), edgecolor=MASK, linewidth=1.5, label="mask of the model"),
        Line2D([], [], color=TRUTH, linewidth=1.5, linestyle="dashed", label="outline of the expert (in b: exact)"),
        Line2D([], [], color="black", linestyle="none", marker=r"$\mathrm{(x)}$", markersize=14, label=distance),
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=3, frameon=False, borderpad=1.1, fontsize=USUAL)


def _draw_phantom(figure: SubFigure, clip: PhantomClip) -> None:
    """Frames of the phantom, with the mask and the exact outline."""
    _title(figure, "b", "A simulated phantom in motion (smaller model)")
    chosen = _spread(len(clip.shown))
    for axes, i in zip(figure.subplots(1, len(chosen), squeeze=False)[0], chosen, strict=True):
        _show(axes, clip.shown[i].frame, clip.shown[i].mask, clip.truths[i])
        _caption(axes, f"frame {i + 1}: Dice {clip.dice[i]:.2f}")


def _draw_heart(figure: SubFigure, clip: HeartClip) -> None:
    """Frames of the heart, with their states."""
    withheld, count = clip.report["states"].get("unfamiliar", 0), clip.report["frames"]
    _title(figure, "c", f"A heart, which the breast model never saw: {withheld} of {count} masks withheld")
    chosen = _spread(len(clip.shown))
    for axes, i in zip(figure.subplots(1, len(chosen), squeeze=False)[0], chosen, strict=True):
        shown = clip.shown[i]
        _show(axes, shown.frame, shown.mask)
        color = UNFAMILIAR if shown.state == "unfamiliar" else "black"
        _caption(axes, f"frame {i + 1}: {_familiarity(shown)}", color=color)
        _caption(axes, "mask withheld" if shown.mask is None else "mask drawn", line=1, color=color)


def _draw_latencies(figure: SubFigure, report: dict[str, Any]) -> None:
    """Where the time of a frame of the heart goes."""
    _title(figure, "d", f"Stages of the stream in c, milliseconds per frame (threads: {report['threads']})")
    latencies = report["latency_ms"]
    stages = [stage for stage in STAGES if stage in latencies]
    axes = figure.subplots()
    for offset, name, color, words in ((-0.21, "p50", P50, "usual (p50)"), (0.21, "p95", P95, "slow (p95)")):
        values = [latencies[stage][name] for stage in stages]
        bars = axes.barh([place + offset for place in range(len(stages))], values, 0.4, color=color, label=words)
        axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=SMALL)
    axes.set_yticks(range(len(stages)), stages)
    figure.legend(loc="outside right center", frameon=False, fontsize=USUAL)
    _clear(axes)


def _draw_comparison(figure: SubFigure, comparison: Comparison) -> None:
    """Two bars, and how close the results are."""
    _title(figure, "e", f"The breast model on one image: {comparison.ratio:.1f} times as fast as published")
    axes = figure.subplots()
    ways = {"published": comparison.published, "ht_kernels": comparison.ours}
    bars = axes.barh(list(ways), list(ways.values()), 0.6, color=(PUBLISHED, OURS))
    axes.bar_label(bars, fmt="%.0f ms", padding=4, fontsize=USUAL)
    agreement = f"{100 * comparison.agreement:.2f} % of pixels have the same class"
    axes.set_xlabel(f"{agreement}; logits differ by at most {comparison.difference:.0e}", fontsize=SMALL)
    _clear(axes)


def _show(
    axes: Axes, frame: Frame, mask: NDArray[np.uint8] | None = None, truth: NDArray[np.bool_] | None = None
) -> None:
    """A frame, with a mask and with a true outline, which is dashed so that the mask's own shows beneath it."""
    axes.imshow(frame, cmap="gray", vmin=0, vmax=255)
    if mask is not None and mask.any():
        axes.contourf(mask > 0, levels=[0.5, 1.5], colors=[MASK], alpha=0.3)
        axes.contour(mask > 0, levels=[0.5], colors=[MASK], linewidths=1.5)
    if truth is not None:
        axes.contour(truth, levels=[0.5], colors=TRUTH, linewidths=1.5, linestyles="dashed")
    axes.set_anchor("N")
    axes.axis("off")


def _words(segmented: Segmented) -> list[str]:
    """The lines under a breast image."""
    shown = segmented.shown
    lines = ["mask withheld" if segmented.dice is None else f"Dice {segmented.dice:.2f}"]
    if shown.confidence is not None:
        lines.append(f"confidence {shown.confidence:.2f}")
    return [*lines, _familiarity(shown)]


def _familiarity(shown: Shown) -> str:
    return f"{'unfamiliar' if shown.state == 'unfamiliar' else 'familiar'} ({shown.distance:.2f})"


def _title(figure: SubFigure, letter: str, words: str) -> None:
    figure.suptitle(rf"$\bf{{{letter}}}$   {words}", fontsize=LARGE, x=0.01, ha="left")


def _caption(axes: Axes, words: str, line: int = 0, **options: Any) -> None:
    """Write a line under an image."""
    axes.annotate(
        words,
        xy=(0.5, 0),
        xycoords="axes fraction",
        xytext=(0, -5 - 1.3 * USUAL * line),
        textcoords="offset points",
        ha="center",
        va="top",
        fontsize=USUAL,
        **options,
    )


def _clear(axes: Axes) -> None:
    """Take away what labelled bars do not need, and make room for the labels."""
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0, labelsize=USUAL)
    axes.set_xticks([])
    axes.margins(x=0.16)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _aspect(frame: Frame) -> float:
    """Width over height."""
    return float(frame.shape[1] / frame.shape[0])


def _spread(count: int) -> list[int]:
    """The frames in the middle of each third of a clip of ``count`` frames."""
    return sorted({(2 * i + 1) * count // 6 for i in range(3)})
