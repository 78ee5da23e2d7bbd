"""The picture of the README: ``python docs/pictures.py`` writes ``docs/images/front.png``.

On the left are simulated phantoms, segmented by the shipped weights: the first four with a lesion among the 200 that
the Dice of the weights' card was measured on, not the best ones. On the right is the speed chart, from the tables of
``docs/benchmarks.md``, so that no figure is written twice.
"""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure, SubFigure
from PIL import Image

import ht_kernels as ht
from ht_kernels.train import simulate_examples
from ht_kernels.weights import PHANTOM

DOCS = Path(__file__).parent
SEED = 1000
"""Of the phantoms that ``ht-kernels evaluate --phantoms`` draws."""

COLOUR = (0.1, 0.75, 0.7, 0.5)
"""Of a mask: red, green, blue, opacity."""

SHOWN = {
    "adapter, 1 image": ("adapter forward, B=1", 4),
    "adapter with gradients, 8 images": ("adapter forward + backward, B=8", 4),
    "segmentation head, 8 images": ("segmentation head, B=8", 4),
    "whole model, 1 image": ("segmentation model, B=1", 4),
    "ViT-Tiny/16 in ONNX Runtime": ("ViT-Tiny/16", 4, "In ONNX Runtime"),
    "training step, ViT-Tiny/16": ("ViT-Tiny/16", 3, "Training"),
}
"""Bars of the chart: a row of a table in benchmarks.md, the column with the ratio over the published way, a section."""


def main() -> None:
    figure = Figure(figsize=(12, 3.7), layout="constrained", dpi=100)
    left, right = figure.subfigures(1, 2, width_ratios=(1.55, 1))
    draw_phantoms(left)
    draw_speed(right)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    picture = Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE)  # a third of the bytes
    picture.save(DOCS / "images" / "front.png", optimize=True)


def draw_phantoms(figure: SubFigure) -> None:
    """Frames above, and below them the masks with the true outline."""
    examples = simulate_examples(8, SEED)
    chosen = [i for i in range(len(examples)) if examples.targets[i].any()][:4]
    folded = ht.fold(ht.HTCLIP.from_checkpoint(PHANTOM).eval())
    with torch.no_grad():
        masks = folded.classes(folded(examples.images[chosen])).numpy()
    axes = figure.subplots(2, len(chosen))
    for column, (index, mask) in enumerate(zip(chosen, masks, strict=True)):
        frame, truth = examples.images[index, 0].numpy(), examples.targets[index].numpy()
        dice = 2 * np.sum((mask > 0) & (truth > 0)) / (np.sum(mask > 0) + np.sum(truth > 0))
        for row in range(2):
            axes[row, column].imshow(frame, cmap="gray", vmin=0, vmax=255)
            axes[row, column].axis("off")
        colour = np.zeros((*mask.shape, 4))
        colour[mask > 0] = COLOUR
        axes[1, column].imshow(colour)
        axes[1, column].contour(truth > 0, levels=[0.5], colors="white", linewidths=1.4)
        axes[1, column].set_title(f"Dice {dice:.2f}", fontsize=9, y=-0.16)
    figure.suptitle("simulated frames; below: the model's mask, and the true outline in white", fontsize=10)


def draw_speed(figure: SubFigure) -> None:
    """How many times as fast as the published way."""
    axes = figure.add_subplot()
    ratios = {label: ratio(*place) for label, place in SHOWN.items()}
    bars = axes.barh(list(ratios), list(ratios.values()), color="#c8501e", height=0.6)
    axes.bar_label(bars, [f"{value:g}x" for value in ratios.values()], padding=3, fontsize=9)
    axes.axvline(1, color="#6c757d", linewidth=1, linestyle="dotted")
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0, labelsize=9)
    axes.set_xticks([])
    axes.margins(x=0.12)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    figure.suptitle("times as fast as the published way, on a CPU", fontsize=10)


def ratio(row: str, column: int, section: str = "Speed") -> float:
    """A cell such as ``3.8x`` of a table in benchmarks.md."""
    text = (DOCS / "benchmarks.md").read_text()
    part = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    found = re.search(rf"^\| {re.escape(row)} \|(.*)\|$", part, re.MULTILINE)
    if found is None:
        raise SystemExit(f"benchmarks.md has no row {row!r} under {section}")
    return float(found[1].split("|")[column - 1].strip().removesuffix("x"))


if __name__ == "__main__":
    main()
