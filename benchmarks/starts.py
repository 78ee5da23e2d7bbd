"""How adapters should start: loss and Dice of each start and warm-up, in towers with a small and a large stream.

``python -m benchmarks.starts DATA --tower FILE --output DIR`` trains segmentation models on a share of a data set. FILE
holds the weights of DINOv2 ViT-S/14, whose residual stream is small. The second tower is the same with its stream
multiplied, as in CLIP towers; LayerNorm takes the factor out, so both towers compute the same in every block.

Every start is trained by the recipe ``ours`` without averaging and with the augmentation ``light``, except for what
the start changes. Finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import replace
from typing import Any

import torch
from matplotlib.figure import Figure

from ht_kernels.clip import HTCLIP
from ht_kernels.clip.backbone import load_backbone
from ht_kernels.data import SegmentationDataset
from ht_kernels.errors import InputError
from ht_kernels.files import png_bytes, write_whole
from ht_kernels.train import RATIOS, Examples, Trainer, named_recipe, prepare, read_examples

from . import figures

BACKBONE = "timm/vit_small_patch14_dinov2"

STARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "heads alone": ("heads", {}),
    "published": ("ht", {"start": "published", "warmup": 0}),
    "published, warm-up": ("ht", {"start": "published"}),
    "identity": ("ht", {"warmup": 0}),
    "identity, warm-up": ("ht", {}),
}
"""By name, the method and what differs from the recipe ``ours``."""

FACTORS = {"small stream": 1.0, "large stream": 20.0}
"""By tower, the factor of its residual stream."""

_COLORS = ("#555555", "#c8501e", "#e3a26f", "#6c8ebf", "#2a7f9e")


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark. Return exit status 0, or 2 for bad input."""
    parser = figures.options_on_data("starts", __doc__, "for runs, figures and the chart")
    parser.add_argument("--tower", metavar="FILE", required=True, help=f"weights of {BACKBONE}")
    parser.add_argument("--share", type=int, default=20, choices=RATIOS, help="percent of the training split")
    parser.add_argument("--epochs", type=int, default=15)
    args = parser.parse_args(argv)
    try:
        splits = (SegmentationDataset(args.data, args.dataset, s, args.image_size) for s in ("train", "val"))
        train, val = (read_examples(split) for split in splits)
        rows: list[dict[str, Any]] = []
        for tower, factor in FACTORS.items():
            for start in STARTS:
                rows.append({"tower": tower, "start": start, "curve": follow(args, start, factor, train, val)})
                print(_line(rows[-1]), flush=True)
        figures.write(args.output / "starts.json", rows, table(rows), epochs=args.epochs, share=args.share)
        write_whole(args.output / "starts.png", png_bytes(draw(rows)), "the chart")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def follow(
    args: argparse.Namespace, start: str, factor: float, train: Examples, val: Examples
) -> dict[str, list[float]]:
    """Train with a start, or go on with it, and return loss and validation Dice by epoch."""
    method, changes = STARTS[start]
    recipe = named_recipe("ours", "segmentation", method)
    recipe = replace(recipe, epochs=args.epochs, average=None, augment="light", ratio=args.share, **changes)
    clip_model = load_backbone(BACKBONE, args.tower, args.image_size)
    multiply_stream(clip_model, factor)
    torch.manual_seed(recipe.seed)
    layers = () if method == "heads" else 10
    model = HTCLIP(clip_model, adapter_layers=layers, start=recipe.start)
    prepare(model, method)
    folder = args.output / f"{start.replace(', ', '-').replace(' ', '-')}-{factor:g}"
    Trainer(model, recipe, train.share(args.share, recipe.seed), val, folder, say=lambda _: None).run()
    with (folder / "log.csv").open(newline="", encoding="utf-8") as file:
        log = list(csv.DictReader(file))
    return {"loss": [float(row["loss"]) for row in log], "dice": [float(row["val_dice"]) for row in log]}


@torch.no_grad()
def multiply_stream(visual: Any, factor: float) -> None:
    """Multiply the residual stream of a timm tower by ``factor``, in place: what is embedded, and what blocks add."""
    for parameter in (*visual.patch_embed.proj.parameters(), visual.pos_embed, visual.cls_token):
        parameter.mul_(factor)
    for block in visual.blocks:
        block.ls1.gamma.mul_(factor)
        block.ls2.gamma.mul_(factor)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of a Markdown table: the first loss, and Dice after the second and the last epoch."""
    lines = ["| tower | start | loss, first epoch | last | Dice, second epoch | last |", "|---|---|--:|--:|--:|--:|"]
    for row in rows:
        loss, dice = row["curve"]["loss"], row["curve"]["dice"]
        cells = [row["tower"], row["start"], f"{loss[0]:.2f}", f"{loss[-1]:.2f}", f"{dice[1]:.3f}", f"{dice[-1]:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Loss above and Dice below, a column for each tower and a line for each start."""
    figure = Figure(figsize=(10, 7), layout="constrained", dpi=120)
    axes = figure.subplots(2, len(FACTORS), sharex=True, sharey="row")
    for column, tower in enumerate(FACTORS):
        for row, color in zip((r for r in rows if r["tower"] == tower), _COLORS, strict=False):
            for panel, name in zip(axes[:, column], ("loss", "dice"), strict=True):
                values = row["curve"][name]
                panel.plot(range(1, len(values) + 1), values, color=color, label=row["start"])
        axes[0, column].set_title(f"{tower} (DINOv2 ViT-S/14, times {FACTORS[tower]:g})", fontsize=11)
        axes[1, column].set_xlabel("epoch")
    axes[0, 0].set(ylabel="training loss", yscale="log")
    axes[1, 0].set(ylabel="Dice on the validation split", ylim=(0, 1))
    axes[0, 0].legend(frameon=False)
    for panel in axes.flat:
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def _line(row: dict[str, Any]) -> str:
    return f"{row['tower']}, {row['start']}: Dice {row['curve']['dice'][-1]:.3f}"


if __name__ == "__main__":
    sys.exit(main())
