"""``ht-kernels train``: a model from a data set in the published layout, or from simulated phantoms."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ht_kernels.errors import InputError

from . import model_options

if TYPE_CHECKING:
    from ht_kernels.clip import HTCLIP
    from ht_kernels.train import Examples, Recipe

HELP = "train adapters and heads, or a baseline, with the published recipe"

_VALIDATION_PHANTOMS = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument("data", type=Path, nargs="?", metavar="DATA", help="a folder in the published layout")
    data.add_argument("--dataset", metavar="NAME", help="a data set in DATA, such as BUSI")
    data.add_argument("--phantoms", type=int, metavar="N", help="instead of DATA: simulate N phantoms to segment")
    data.add_argument(
        "--ratio",
        type=int,
        default=100,
        metavar="PERCENT",
        help="share of the training split to use: 1, 2, 5, 10, 20, 50 or 100",
    )
    data.add_argument(
        "--skip-bad", action="store_true", help="report images that cannot be used, and go on without them"
    )
    parser.add_argument(
        "--task",
        required=True,
        choices=("segmentation", "classification", "contrastive"),
        help="contrastive: images with captions, for zero-shot classification and retrieval",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for weights and logs; a training stopped in it goes on",
    )
    model = parser.add_argument_group("model")
    model_options.add_tower_arguments(model)
    model.add_argument(
        "--from",
        dest="start",
        type=Path,
        metavar="CHECKPOINT",
        help="start from its tower, and from its heads where task and classes are the same; options of the model that "
        "are not given are its own",
    )
    model.add_argument(
        "--keep-adapters",
        action="store_true",
        help="with --from: start from its adapters too, which --method may freeze",
    )
    model.add_argument("--variant", help="variant of the adapters (default: hybrid)")
    model.add_argument(
        "--spectral", metavar="FORM", help="a spectral filter in place of the gain: full, shared or radial"
    )
    model.add_argument("--reduce-dim", type=int, metavar="R", help="width of the heads (default: 512)")
    model.add_argument(
        "--feature-layers", type=int, nargs="+", metavar="L", help="blocks that the heads read (default: 3 6 9)"
    )
    recipe = parser.add_argument_group("recipe (defaults as published)")
    recipe.add_argument(
        "--method",
        default="ht",
        help="what is trained beside the heads: ht (adapters), heads (nothing else), lora, full (the tower), or all "
        "(adapters and tower, for a tower without pretrained weights)",
    )
    recipe.add_argument("--epochs", type=int, default=200)
    recipe.add_argument("--batch", type=int, default=32, help="images of one step, of all processes together")
    recipe.add_argument("--accumulate", type=int, default=1, metavar="N", help="compute each batch in N parts")
    recipe.add_argument("--learning-rate", type=float, default=1e-4)
    recipe.add_argument("--warmup", type=int, default=0, metavar="EPOCHS")
    recipe.add_argument("--validate-every", type=int, default=10, metavar="EPOCHS")
    recipe.add_argument(
        "--patience",
        type=int,
        default=15,
        metavar="VALIDATIONS",
        help="validations without a better one, before training stops",
    )
    recipe.add_argument(
        "--augment", default="published", help="published, weak (no gray values), gray (no flips) or none"
    )
    recipe.add_argument("--precision", default="no", help="mixed precision: no, bf16 or fp16")
    recipe.add_argument("--seed", type=int, default=1)


def run(args: argparse.Namespace) -> int:
    try:
        from ht_kernels.deploy.folded import why_not_folded
        from ht_kernels.train import Trainer, prepare
    except ImportError as error:
        raise InputError(f"training needs {error.name}: pip install 'ht-kernels[train]'") from error
    recipe = _recipe(args)
    if args.task == "contrastive":
        model, train, val = _pairs(args)
    else:
        names, read = _data(args)
        model = _model(args, task=args.task, num_classes=len(names), class_names=names)
        if model.config.image_size is None:
            raise InputError(f"the tower takes images of {model.tower.image_size}, and data is read as squares")
        train, val = read(model.config.image_size)
    train = train.share(recipe.ratio, recipe.seed)
    unfoldable = why_not_folded(model)
    prepare(model, recipe.method)
    trainer = Trainer(model, recipe, train, val, args.output)
    for name, why in {**train.bad, **val.bad}.items():
        trainer.say(f"left out {name}: {why}")
    if unfoldable:
        trainer.say(f"The trained model runs in torch only; it cannot be folded, exported or streamed: {unfoldable}.")
    trainer.say(f"{len(train)} images to train on, {len(val)} to validate\n{model.trainable_summary()}")
    outcome = trainer.run()
    score = {"segmentation": "Dice", "classification": "accuracy", "contrastive": "mean recall"}[args.task]
    trainer.say(
        f"best {score} on the validation split: {outcome.best:.4f} after epoch {outcome.best_epoch} of "
        f"{outcome.epochs}\nwrote best.safetensors, last.pt, log.csv and tensorboard/ to {args.output}"
    )
    return 0


def _recipe(args: argparse.Namespace) -> Recipe:
    from dataclasses import fields

    from ht_kernels.train import Recipe

    given = {f.name: getattr(args, f.name) for f in fields(Recipe) if hasattr(args, f.name)}
    return Recipe(**given)


def _data(args: argparse.Namespace) -> tuple[tuple[str, ...], Callable[[int], list[Examples]]]:
    """The names of the classes, and a function that reads images of a size: for training, and for validation.

    Data that is missing is reported before a model is loaded.
    """
    from ht_kernels.data import ClassificationDataset, SegmentationDataset
    from ht_kernels.train import read_examples

    lesion = "background", "lesion"
    if args.phantoms is not None:
        if args.data or args.dataset or args.task != "segmentation":
            raise InputError("--phantoms stands for DATA and --dataset, and is for --task segmentation")
        if args.phantoms < 1:
            raise InputError(f"--phantoms {args.phantoms} was given, expected 1 or more")
        return lesion, lambda size: _simulate(args, size)
    _need_data(args)
    kind = SegmentationDataset if args.task == "segmentation" else ClassificationDataset
    sets = [kind(args.data, args.dataset, split) for split in ("train", "val")]
    names: tuple[str, ...] = getattr(sets[0], "classes", lesion)
    if len(names) < 2:
        raise InputError(f"every image of {args.dataset} has the label 0, so there is nothing to tell apart")

    def read(size: int) -> list[Examples]:
        for data in sets:
            data.image_size = size
        return [read_examples(data, args.skip_bad) for data in sets]

    return names, read


def _simulate(args: argparse.Namespace, size: int) -> list[Examples]:
    import os

    from ht_kernels.train import simulate_examples

    counts, workers = (args.phantoms, _VALIDATION_PHANTOMS), len(os.sched_getaffinity(0))
    return [simulate_examples(n, args.seed + i, size, workers) for i, n in enumerate(counts)]


def _need_data(args: argparse.Namespace) -> None:
    if not (args.data and args.dataset):
        raise InputError("no data was named: give DATA and --dataset, or --phantoms for simulated images")


def _pairs(args: argparse.Namespace) -> tuple[HTCLIP, Examples, Examples]:
    """The model, which knows what images go through, and images with captions for training and validation."""
    from ht_kernels.data import CaptionDataset
    from ht_kernels.train import read_examples

    if args.phantoms is not None:
        raise InputError("--phantoms is for --task segmentation; ht-kernels phantom writes phantoms with captions")
    _need_data(args)
    for name in ("reduce_dim", "feature_layers"):
        if getattr(args, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} is of a head, and a contrastive model has none")
    model = _model(args, task=args.task)
    sets = [CaptionDataset(args.data, args.dataset, split, model.preprocess) for split in ("train", "val")]
    train, val = (read_examples(data, args.skip_bad) for data in sets)
    return model, train, val


def _model(args: argparse.Namespace, **options: Any) -> HTCLIP:
    import torch

    from ht_kernels.train import build, start_from

    names = (*model_options.TOWER, "variant", "spectral", "reduce_dim", "feature_layers")
    chosen = model_options.given(args, *names) | options
    torch.manual_seed(args.seed)
    if args.start is not None:
        return start_from(args.start, args.method, args.keep_adapters, **chosen)
    if args.keep_adapters:
        raise InputError("--keep-adapters keeps those of a checkpoint: name it with --from")
    return build(args.method, **chosen)
