"""The same training twice: with the published computation, and with ours.

``python -m benchmarks.real_data.beside_published DATA --tower FILE --output DIR`` trains hybrid adapters and heads by
the recipe of the study, from the same weights, on the same batches in the same order, without dropout. The two differ
by rounding only, which a training amplifies; the figures are both curves, how far they are apart, and the time of both.
"""

from __future__ import annotations

import random
import sys
import time
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from ht_kernels.errors import InputError
from ht_kernels.files import png_bytes, write_whole
from ht_kernels.published import PublishedHTCLIP
from ht_kernels.train import Examples, prepare
from ht_kernels.train.augment import augment
from ht_kernels.train.losses import loss_for
from ht_kernels.train.metrics import score, summarize
from ht_kernels.train.recipe import Recipe

from .. import figures
from . import data
from .methods import BATCH, METHODS, Run, Setting
from .runs import start

_COLORS = {"published": "#555555", "ours": "#c8501e"}


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark. Return exit status 0, or 2 for bad input."""
    parser = figures.options_on_data("real_data.beside_published", __doc__, "for figures and the chart")
    parser.add_argument("--backbone", default="timm/vit_small_patch14_dinov2", metavar="NAME", help="the vision tower")
    parser.add_argument("--tower", metavar="FILE", help="the tower's weights (default: random ones)")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    setting = Setting("segmentation", args.backbone, args.image_size, args.epochs, "no")
    try:
        splits = data.read(args.data, args.dataset, setting.task, args.image_size)
        run = Run(next(method for method in METHODS if method.name == "hybrid_gain"), 100, args.seed)
        rows = both(run, setting, splits, args.tower)
        print("\n".join(table(rows)), flush=True)
        figures.write(args.output / "beside_published.json", rows, table(rows), epochs=args.epochs, seed=args.seed)
        write_whole(args.output / "beside_published.png", png_bytes(draw(rows)), "the chart")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def both(run: Run, setting: Setting, splits: data.Data, tower: str | None) -> list[dict[str, Any]]:
    """Train both ways, batch by batch in turn, so that both see the same speed of the machine; a row for each way."""
    ours = start(run.method, run.seed, setting, tower)
    prepare(ours, run.method.method)
    for module in ours.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    models: dict[str, nn.Module] = {"published": PublishedHTCLIP.like(ours.train()), "ours": ours}
    recipe, loss = run.recipe(setting), loss_for(setting.task, 2)
    chosen = {kind: [p for p in model.parameters() if p.requires_grad] for kind, model in models.items()}
    optimizers = {
        kind: torch.optim.AdamW(parameters, recipe.learning_rate, recipe.betas, weight_decay=recipe.weight_decay)
        for kind, parameters in chosen.items()
    }
    rows: dict[str, dict[str, Any]] = {
        kind: {"way": kind, "losses": [], "dice": [], "seconds": 0.0, "images": recipe.epochs * len(splits.train)}
        for kind in models
    }
    for epoch in range(recipe.epochs):
        for images, masks in batches(splits.train, recipe, epoch):
            step = len(rows["ours"]["losses"])
            for kind, model in models.items():
                began = time.perf_counter()
                value = loss(model(images), masks)
                value.backward()
                nn.utils.clip_grad_norm_(chosen[kind], recipe.clip or torch.inf)
                optimizers[kind].param_groups[0]["lr"] = recipe.rate_at(step, len(splits.train), recipe.learning_rate)
                optimizers[kind].step()
                optimizers[kind].zero_grad()
                rows[kind]["seconds"] += time.perf_counter() - began
                rows[kind]["losses"].append(float(value.detach()))
        for kind, model in models.items():
            rows[kind]["dice"].append(validate(model, splits.val))
            model.train()
    return list(rows.values())


def batches(train: Examples, recipe: Recipe, epoch: int) -> list[tuple[Tensor, Tensor]]:
    """The batches of an epoch: augmented images (B, 3, S, S) in [0, 1] and masks (B, S, S)."""
    order = list(range(len(train)))
    random.Random(f"{recipe.seed} {epoch}").shuffle(order)
    made = []
    for first in range(0, len(order), recipe.batch):
        pairs = [
            augment(train.images[i], train.targets[i], recipe.augment, random.Random(f"{recipe.seed} {epoch} {i}"))
            for i in order[first : first + recipe.batch]
        ]
        images = torch.stack([image for image, _ in pairs]).float() / 255
        masks = torch.stack([mask for _, mask in pairs if mask is not None])
        made.append((images.expand(-1, 3, -1, -1).contiguous(), masks.long()))
    return made


@torch.no_grad()
def validate(model: nn.Module, val: Examples) -> float:
    """Mean Dice on the validation split."""
    model.eval()
    parts = [model((part.float() / 255).expand(-1, 3, -1, -1)).argmax(1) for part in val.images.split(BATCH)]
    return summarize(score(val, range(len(val)), torch.cat(parts), 2, surfaces=False))["dice"]


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of a Markdown table of both ways, and a sentence of how far they are apart."""
    lines = ["| | images/s | first loss | last loss | Dice, last epoch |", "|---|--:|--:|--:|--:|"]
    for row in rows:
        cells = [row["way"], f"{row['images'] / row['seconds']:.2f}", f"{row['losses'][0]:.4f}"]
        cells += [f"{row['losses'][-1]:.4f}", f"{row['dice'][-1]:.4f}"]
        lines.append(f"| {' | '.join(cells)} |")
    theirs, ours = rows
    apart = [abs(a - b) for a, b in zip(theirs["losses"], ours["losses"], strict=True)]
    dice = max(abs(a - b) for a, b in zip(theirs["dice"], ours["dice"], strict=True))
    lines += [
        "",
        f"Ours is {theirs['seconds'] / ours['seconds']:.2f} times as fast. The losses differ by {apart[0]:.1e} in the "
        f"first of {len(apart)} steps and by {max(apart):.1e} at most; Dice of the same epoch by {dice:.4f} at most.",
    ]
    return lines


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Both curves of loss and Dice, over each other."""
    figure = Figure(figsize=(10, 4.4), layout="constrained", dpi=120)
    panels = figure.subplots(1, 2)
    for row, width, style in zip(rows, (3.0, 1.2), ("solid", "dashed"), strict=True):
        look = {"color": _COLORS[row["way"]], "linewidth": width, "linestyle": style, "label": row["way"]}
        panels[0].plot(range(1, len(row["losses"]) + 1), row["losses"], **look)
        panels[1].plot(range(1, len(row["dice"]) + 1), row["dice"], **look)
    panels[0].set(xlabel="step", ylabel="training loss", yscale="log")
    panels[1].set(xlabel="epoch", ylabel="Dice on the validation split", ylim=(0, 1))
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    sys.exit(main())
