"""``ht-kernels evaluate``: a checkpoint on a split of a data set, or on simulated phantoms."""

from __future__ import annotations

import argparse
from pathlib import Path

from ht_kernels.errors import InputError

from . import model_options

HELP = "measure a checkpoint on a data set: figures, pictures and a report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="what ht-kernels train wrote")
    parser.add_argument("data", type=Path, nargs="?", metavar="DATA", help="a folder in the published layout")
    parser.add_argument("--dataset", metavar="NAME", help="which of its data sets, such as BUSI")
    parser.add_argument("--split", default="test", help="train, val or test (default: %(default)s)")
    parser.add_argument("--phantoms", type=int, metavar="N", help="instead of DATA: N simulated phantoms")
    parser.add_argument("--seed", type=int, default=1000, help="of the phantoms (default: %(default)s)")
    parser.add_argument("--skip-bad", action="store_true", help="report images that cannot be used, and go on without")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="for the report and its pictures")
    model_options.add_tower_arguments(parser)


def run(args: argparse.Namespace) -> int:
    try:
        from ht_kernels.train import read_examples, simulate_examples
        from ht_kernels.train.evaluate import evaluate, lines
    except ImportError as error:
        raise InputError(f"evaluation needs {error.name}: pip install 'ht-kernels[train]'") from error
    from ht_kernels.data import ClassificationDataset, SegmentationDataset

    model, _ = model_options.load_model(args)
    task, size = model.config.task, model.config.image_size or 224
    if args.phantoms is not None:
        if args.data or args.dataset or task != "segmentation" or args.phantoms < 1:
            raise InputError("--phantoms takes 1 or more instead of DATA and --dataset, and needs a segmentation model")
        examples = simulate_examples(args.phantoms, args.seed, size)
        name = f"{args.phantoms} phantoms of seed {args.seed}"
    elif args.data and args.dataset:
        kind = SegmentationDataset if task == "segmentation" else ClassificationDataset
        examples = read_examples(kind(args.data, args.dataset, args.split, size), args.skip_bad)
        name = f"{args.dataset}, {args.split} split"
    else:
        raise InputError("no data was named: give DATA and --dataset, or --phantoms for simulated images")
    for bad, why in examples.bad.items():
        print(f"left out {bad}: {why}")
    results = evaluate(model, examples, args.output, f"{args.checkpoint.name} on {name}")
    print("\n".join(lines(results)))
    print(f"wrote report.md, results.json, results.csv and a picture to {args.output}")
    return 0
