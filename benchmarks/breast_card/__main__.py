"""Measure a model for its card; see the package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ht_kernels import HTCLIP
from ht_kernels.class_names import class_count
from ht_kernels.clip.htclip import NOT_CALIBRATED, HTCLIPConfig
from ht_kernels.data import ClassificationDataset, SegmentationDataset
from ht_kernels.data.prepare.duplicates import near_duplicates
from ht_kernels.deploy.manifest import sha256
from ht_kernels.errors import InputError
from ht_kernels.files import output_folder, png_bytes
from ht_kernels.train import Examples, read_examples
from ht_kernels.train.baselines import Baseline
from ht_kernels.train.metrics import NAMES, conventions
from ht_kernels.train.pictures import draw_confidence
from ht_kernels.weights import locate

from .. import figures
from ..real_data.data import hashes, without_twins
from ..real_data.runs import plain
from . import beside, measures, pictures
from .measures import Estimate, Group


def main(argv: list[str] | None = None) -> int:
    """Write the card. Return exit status 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.breast_card", description=__doc__)
    parser.add_argument("data", type=Path, metavar="DATA", help="a folder in the published layout, with labels")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a calibrated model, such as breast")
    parser.add_argument("--dataset", default="BUSI", metavar="NAME", help="which of its data sets")
    parser.add_argument("--beside", type=Path, metavar="FILE", help="a UNet of ht-kernels train, to compare with")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="for figures, tables and pictures")
    args = parser.parse_args(argv)
    try:
        model = HTCLIP.from_checkpoint(args.checkpoint).eval()
        if model.config.task != "segmentation":
            raise InputError(f"{args.checkpoint} is for {model.config.task}, expected a model for segmentation")
        if model.familiarity is None:
            raise InputError(NOT_CALIBRATED)
        other = None if args.beside is None else _other(args.beside, model.config)
        size = model.tower.image_size[0]
        splits = {name: _read(args.data, args.dataset, name, size) for name in ("train", "val", "test")}
        labels = ClassificationDataset(args.data, args.dataset, "test")
        kinds = {name: labels.classes[label] for name, label in zip(labels.names, labels.labels, strict=True)}
        twins = near(splits)
        _, val = measures.measure(model, splits["val"])
        masks, test = measures.measure(model, splits["test"])
        found = measures.groups(test, kinds, set(without_twins(splits["test"], [splits["train"], splits["val"]]).names))
        sets = {"validation": val, "test": test} | {group.name: _members(group, test) for group in found}
        rows = {name: measures.summarize(images) for name, images in sets.items() if images}
        for name in ("validation", "test"):
            rows[name]["spearman"] = measures.agreement(sets[name])
        facts: dict[str, Any] = {
            "checkpoint": args.checkpoint.name,
            "sha256": sha256(locate(args.checkpoint).read_bytes()),
            "image_size": size,
            "near_duplicates": twins,
            "limit": model.familiarity.scale.limit,
            "groups": {group.name: group.words for group in found},
            "images": [{"split": name} | _plain(row) for name in ("validation", "test") for row in sets[name]],
        }
        lines = table(rows, found, size)
        if other is not None:
            theirs = {name: _read(args.data, args.dataset, name, other.config.image_size) for name in ("val", "test")}
            compared = beside.compare(model, other, splits, theirs)
            facts["beside"] = [_plain(row) for row in compared]
            lines += ["", *beside.table(compared, args.checkpoint.stem, "UNet")]
        with output_folder(args.output) as folder:
            figures.write(folder / "card.json", [{"set": n} | _plain(row) for n, row in rows.items()], lines, **facts)
            worst = pictures.draw_worst(splits["test"], masks, test, found)
            (folder / "worst.png").write_bytes(png_bytes(worst))
            strips = pictures.draw_dice({name: sets[name] for name in rows})
            (folder / "dice.png").write_bytes(png_bytes(strips))
            if measures.outlined(test):
                draw_confidence(folder / "confidence.png", measures.outlined(test))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0


def near(splits: Mapping[str, Examples]) -> dict[str, int]:
    """How many images of each split have a near duplicate in another split, and how many test images in their own."""
    counts = {}
    for name, examples in splits.items():
        others = [other for split, other in splits.items() if split != name]
        counts[name] = len(examples) - len(without_twins(examples, others))
    within = {i for pair in near_duplicates(hashes(splits["test"])) for i in pair}
    return counts | {"within test": len(within)}


def table(rows: Mapping[str, Mapping[str, Any]], found: Sequence[Group], image_size: int) -> list[str]:
    """The lines of the card in Markdown: the scores of both splits, and of the groups of test images."""
    splits = {name: rows[name] for name in ("validation", "test")}
    lines = [f"| | {' | '.join(splits)} |", "|---|--:|--:|"]
    cells = {"images": [str(row["images"]) for row in splits.values()]}
    cells |= {NAMES[name]: [_cell(name, row[name]) for row in splits.values()] for name in measures.SCORES}
    cells["nothing found"] = [f"{row['missed']}" for row in splits.values()]
    cells["called unfamiliar"] = [_share(row) for row in splits.values()]
    cells["Spearman's correlation of confidence and Dice"] = [_cell("spearman", r["spearman"]) for r in splits.values()]
    lines += [f"| {label} | {' | '.join(of_splits)} |" for label, of_splits in cells.items()]
    lines += [
        "",
        f"Means over images, with 95 % intervals of the bootstrap over images. {conventions(image_size)} The model was "
        "trained once, so the intervals do not cover what another seed of the training would change.",
        "",
        "| test images | number | Dice | IoU | HD95, all | called unfamiliar |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for group in found:
        if group.name in rows:
            row = rows[group.name]
            scores = [_cell(name, row[name]) for name in ("dice", "iou", "hd95_all")]
            lines.append(f"| {group.name} | {row['images']} | {' | '.join(scores)} | {_share(row)} |")
    return [*lines, "", *(f"- {group.name}: {group.words}" for group in found)]


def _read(root: Path, dataset: str, split: str, image_size: int) -> Examples:
    examples = read_examples(SegmentationDataset(root, dataset, split, image_size))
    empty = [name for name, mask in zip(examples.names, examples.targets, strict=True) if not mask.any()]
    if empty:
        raise InputError(f"{empty[0]} has no lesion in its mask, and the card is of images with one: leave it out")
    return examples


def _other(path: Path, config: HTCLIPConfig) -> Baseline:
    """The network of ``--beside``, which makes masks of the same two classes as the card's model, of ``config``."""
    other = Baseline.load(path)
    if other.config.network != "unet":
        raise InputError(f"{path} is a {other.config.network}, expected a UNet, which makes masks")
    for name, classes in ((path, other.config.num_classes), ("the card's model", class_count(config.num_classes))):
        if classes != 2:
            raise InputError(f"{name} has {classes} classes, and --beside is for 2: background and lesion")
    return other


def _members(group: Group, rows: Sequence[measures.Row]) -> list[measures.Row]:
    return [row for row, inside in zip(rows, group.chosen, strict=True) if inside]


def _cell(name: str, figure: Estimate) -> str:
    return figure.words({"hd95": 1, "hd95_all": 1, "spearman": 2}.get(name, 3))


def _share(row: Mapping[str, Any]) -> str:
    return f"{row['unfamiliar']} of {row['images']}"


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as values that JSON can hold."""
    return {
        name: [plain(part) for part in value] if isinstance(value, Estimate) else plain(value)
        for name, value in row.items()
    }


if __name__ == "__main__":
    sys.exit(main())
