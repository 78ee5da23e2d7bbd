"""``ht-kernels train``: a model from a data set in the published layout, or from simulated phantoms."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ht_kernels.choices import FORMS, NORMALIZATIONS, VARIANTS
from ht_kernels.errors import InputError, did_you_mean
from ht_kernels.files import check_output_folder
from ht_kernels.outputs import SETTINGS
from ht_kernels.train.recipe import RECIPES, named_recipe

from . import config, model_options, terminal

if TYPE_CHECKING:
    from ht_kernels.clip import HTCLIP
    from ht_kernels.train import Examples, Recipe, Trainer

HELP = "train adapters and heads, or a baseline, by a named recipe"
EXAMPLE = "ht-kernels train --task segmentation data --dataset BUSI --backbone ViT-B-16 --output run"

_VALIDATION_PHANTOMS = 200

_OF_TOWERS = {
    "checkpoint": "--from",
    "keep_adapters": "--keep-adapters",
    "start": "--start",
    "adapter_learning_rate": "--adapter-learning-rate",
    "variant": "--variant",
    "normalization": "--normalization",
    "spectral": "--spectral",
    "reduce_dim": "--reduce-dim",
    "feature_layers": "--feature-layers",
}
"""The options that only a model with a tower has, by their name in the arguments."""

_OF_NEW_ADAPTERS = "variant", "spectral", "start"
_OF_HEADS = "reduce_dim", "feature_layers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument("data", type=Path, nargs="?", metavar="DATA", help="a folder in the published layout")
    data.add_argument("--dataset", metavar="NAME", help="a data set in DATA, such as BUSI")
    data.add_argument("--phantoms", type=int, metavar="N", help="instead of DATA: simulate N phantoms to segment")
    data.add_argument(
        "--ratio",
        type=int,
        metavar="PERCENT",
        help="share of the training split to use: 1, 2, 5, 10, 20, 50 or 100 (default)",
    )
    data.add_argument(
        "--shots", type=int, metavar="K", help="instead: K images of each class, or all of a smaller one, to classify"
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
        dest="checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="start from its tower, and from its heads where task and classes are the same; options of the model that "
        f"are not given are its own; a file, {model_options.NAMES}",
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
    model.add_argument(
        "--normalization",
        metavar="HOW",
        help="of pixels, for contrastive: clip (the CLIP model's mean and standard deviation; the default, unless "
        "--recipe is published or --from names a checkpoint that has its own) or published (none)",
    )
    model.add_argument("--reduce-dim", type=int, metavar="R", help="width of the heads (default: 512)")
    model.add_argument(
        "--feature-layers", type=int, nargs="+", metavar="L", help="blocks that the heads read (default: 3 6 9)"
    )
    recipe = parser.add_argument_group(
        "recipe", "Options that are not given have the value of the recipe named by --recipe."
    )
    recipe.add_argument(
        "--recipe",
        metavar="NAME",
        help="ours (the default: adapters start as the identity, clipped gradients; for contrastive, equal captions "
        "are not taken for wrong ones; for other tasks, warm-up and averaged weights) or published",
    )
    recipe.add_argument(
        "--method",
        help="what is trained beside the heads: ht (adapters; the default), heads (nothing else), lora, full (the "
        "tower), last3, last6 or last9 (its last blocks), or all (adapters and tower, for a tower without pretrained "
        "weights); or a network without a tower: unet for segmentation, resnet for classification (resnet18, or that "
        "of --backbone; from --pretrained FILE or imagenet, else from random weights)",
    )
    recipe.add_argument("--epochs", type=int, metavar="N", help=f"passes over the training split {_default('epochs')}")
    recipe.add_argument(
        "--batch", type=int, metavar="N", help=f"images of one step, of all processes together {_default('batch')}"
    )
    recipe.add_argument(
        "--accumulate", type=int, metavar="N", help=f"compute each batch in N parts {_default('accumulate')}"
    )
    recipe.add_argument(
        "--start", metavar="HOW", help=f"how new adapters start: published (random) or identity {_default('start')}"
    )
    recipe.add_argument(
        "--learning-rate",
        type=float,
        metavar="RATE",
        help=f"of heads, and of adapters unless they have their own {_default('learning_rate')}",
    )
    recipe.add_argument(
        "--adapter-learning-rate",
        type=float,
        metavar="RATE",
        help="of all that is trained inside the tower (default: --learning-rate; with --method full or last ones: "
        f"{_tower_rates()})",
    )
    recipe.add_argument(
        "--warmup",
        type=int,
        metavar="EPOCHS",
        help=f"epochs in which the learning rate rises, at most half {_default('warmup')}",
    )
    recipe.add_argument("--clip", type=float, metavar="NORM", help=f"largest norm of the gradient {_default('clip')}")
    recipe.add_argument(
        "--average",
        type=float,
        metavar="DECAY",
        help=f"validate and save a moving average of weights {_default('average')}",
    )
    recipe.add_argument(
        "--validate-every", type=int, metavar="EPOCHS", help=f"epochs between validations {_default('validate_every')}"
    )
    recipe.add_argument(
        "--patience",
        type=int,
        metavar="VALIDATIONS",
        help=f"validations without a better one, before training stops {_default('patience')}",
    )
    recipe.add_argument(
        "--augment",
        help="published (half of the images), weak (flips and crops, all images), light (weak, half of them), gray (no "
        f"flips, all images), ultrasound (gain, speckle, zoom) or none {_default('augment')}",
    )
    recipe.add_argument("--precision", help=f"mixed precision: no, bf16 or fp16 {_default('precision')}")
    recipe.add_argument(
        "--seed", type=int, help=f"of initial weights, subset, order, augmentation and dropout {_default('seed')}"
    )


def _default(name: str) -> str:
    """The values that the recipes have for an option, in brackets; for contrastive where they are others."""
    words = [_values(name, task) for task in ("segmentation", "contrastive")]
    return f"(default: {'; for contrastive '.join(dict.fromkeys(words))})"


def _values(name: str, task: str) -> str:
    values = {recipe: _word(getattr(named_recipe(recipe, task), name)) for recipe in reversed(RECIPES)}
    if len(set(values.values())) == 1:
        return values["ours"]
    return ", ".join(f"{recipe} {value}" for recipe, value in values.items())


def _tower_rates() -> str:
    """The learning rates that the recipes have for a pretrained tower."""
    rates = {recipe: named_recipe(recipe, "segmentation", "full").adapter_learning_rate for recipe in RECIPES}
    return ", ".join(f"{recipe} {_word(rate)}" for recipe, rate in reversed(rates.items()))


def _word(value: object) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def run(args: argparse.Namespace) -> int:
    recipe = _recipe(args)
    _check_options(args, recipe)
    _check_inputs(args)
    try:
        from ht_kernels.deploy.folded import why_not_folded
        from ht_kernels.train import Trainer, prepare
        from ht_kernels.train.recipe import BASELINES
    except ImportError as error:
        raise InputError(f"training needs {error.name}: pip install 'ht-kernels[train]'") from error
    if args.task == "contrastive":
        model, train, val = _pairs(args, recipe)
    else:
        names, read = _data(args, recipe)
        model = _model(args, recipe, task=args.task, num_classes=len(names), class_names=names)
        if model.config.image_size is None:
            raise InputError(f"the tower takes images of {model.tower.image_size}, and data is read as squares")
        train, val = read(model.config.image_size)
    train = train.share(recipe.ratio, recipe.seed, recipe.shots)
    has_tower = recipe.method not in BASELINES
    unfoldable = why_not_folded(model) if has_tower else "it has no tower"
    if has_tower:
        prepare(model, recipe.method, recipe.lora_dropout)
    trainer = Trainer(model, recipe, train, val, args.output)
    if trainer.accelerator.is_main_process:
        config.write(args, args.output / SETTINGS)
    for name, why in {**train.bad, **val.bad}.items():
        trainer.say(f"left out {name}: {why}")
    if unfoldable:
        trainer.say(f"The trained model runs in torch only; it cannot be folded, exported or streamed: {unfoldable}.")
    if has_tower and model.draws_tower and recipe.method not in ("full", "all"):
        trainer.say("The tower has random weights, and is frozen: name trained ones with --pretrained.")
    trainer.say(f"{len(train)} images to train on, {len(val)} to validate\n{model.trainable_summary()}")
    parts = "" if recipe.accumulate == 1 else f" in {recipe.accumulate} parts"
    with terminal.enough_memory(
        f"a batch of {recipe.batch} images{parts}", "give a smaller --batch, or compute it in more parts, --accumulate"
    ):
        outcome = trainer.run()
    score = {"segmentation": "Dice", "classification": "accuracy", "contrastive": "mean recall"}[args.task]
    score = "loss" if recipe.select == "loss" else score
    trainer.say(
        f"best {score} on the validation split: {outcome.best:.4f} after epoch {outcome.best_epoch} of "
        f"{outcome.epochs}\nwrote best.safetensors, last.pt, log.csv and tensorboard/ to {args.output}"
    )
    if has_tower and args.task != "contrastive" and outcome.best_epoch and trainer.accelerator.is_main_process:
        trainer.say(_calibrate(trainer))
    return 0


def _calibrate(trainer: Trainer) -> str:
    """Let the best weights tell which images are unlike those of the training; says in a line what came of it."""
    from ht_kernels.train.calibration import calibrate_file

    recipe, device = trainer.recipe, trainer.accelerator.device
    path, sets = trainer.output / "best.safetensors", (trainer.train, trainer.val)
    try:
        scale = calibrate_file(path, trainer.model, recipe.method, *sets, recipe.batch, device)
    except InputError as error:
        return f"the model cannot tell unfamiliar images: {error}"
    return f"images farther than {scale.limit:.3f} from the training images are unfamiliar to the model"


def _recipe(args: argparse.Namespace) -> Recipe:
    from dataclasses import fields, replace

    from ht_kernels.train import Recipe

    name = args.recipe or "ours"
    options = model_options.given(args, *(f.name for f in fields(Recipe) if hasattr(args, f.name)))
    recipe = replace(named_recipe(name, args.task, args.method or "ht"), **options)
    if recipe.shots is not None and args.task != "classification":
        raise InputError("--shots is a number of images of each class, and is for --task classification")
    return recipe


def _check_options(args: argparse.Namespace, recipe: Recipe) -> None:
    """Raise InputError if an option was given that the method, the task or the data do not use."""
    from ht_kernels.train.recipe import BASELINES, uses_adapters

    method = recipe.method
    given = [name for name, value in model_options.given(args, *_OF_TOWERS).items() if value is not False]
    if method in BASELINES and given:
        raise InputError(f"{_OF_TOWERS[given[0]]} is for a model with a tower, and --method {method} has none")
    new = [name for name in given if name in _OF_NEW_ADAPTERS]
    if new and not (uses_adapters(method) or args.keep_adapters):
        raise InputError(
            f"{_OF_TOWERS[new[0]]} is for new adapters, and --method {method} makes none: leave it out, or take "
            "--method ht or all"
        )
    if method == "heads" and args.adapter_learning_rate is not None:
        raise InputError(
            "--adapter-learning-rate is for what is trained inside the tower, and --method heads trains nothing there: "
            "leave it out"
        )
    if args.task == "contrastive":
        of_heads = [name for name in given if name in _OF_HEADS]
        if of_heads:
            raise InputError(f"{_OF_TOWERS[of_heads[0]]} is of a head, and a contrastive model has none")
        if None not in (args.learning_rate, args.adapter_learning_rate):
            raise InputError(
                "--learning-rate beside --adapter-learning-rate is that of heads, and a contrastive model has none: "
                "leave one of them out"
            )
    if args.phantoms is not None and args.skip_bad:
        raise InputError("--skip-bad is for images in files, and --phantoms simulates them: leave one of them out")


def _check_inputs(args: argparse.Namespace) -> None:
    """Refuse values, data, a checkpoint and an output that do not do, before torch and the model are loaded."""
    from ht_kernels.data.layout import split_names

    for option, value, known in (
        ("--variant", args.variant, VARIANTS),
        ("--spectral", args.spectral, FORMS),
        ("--normalization", args.normalization, NORMALIZATIONS),
    ):
        if value is not None and value not in known:
            meant = did_you_mean(value, known)
            raise InputError(f"{option} {value} is unknown; expected one of {', '.join(known)}{meant}")
    for option, number, least in (
        ("--reduce-dim", args.reduce_dim, 1),
        ("--feature-layers", min(args.feature_layers or [0]), 0),
        ("--phantoms", args.phantoms, 1),
    ):
        if number is not None and number < least:
            raise InputError(f"{option} {number} was given, expected {least} or more")
    model_options.check_image_size(args)
    if args.keep_adapters and args.start is not None:
        raise InputError(f"--start {args.start} is for new adapters, and --keep-adapters keeps those of a checkpoint")
    if args.keep_adapters and args.checkpoint is None:
        raise InputError("--keep-adapters keeps those of a checkpoint: name it with --from")
    if args.checkpoint is not None:
        model_options.check_checkpoint(args.checkpoint)
    if args.phantoms is not None and args.task == "contrastive":
        raise InputError("--phantoms is for --task segmentation; ht-kernels phantom writes phantoms with captions")
    if args.phantoms is not None and (args.data or args.dataset or args.task != "segmentation"):
        raise InputError("--phantoms stands for DATA and --dataset, and is for --task segmentation")
    if args.phantoms is None:
        if not (args.data and args.dataset):
            raise InputError("no data was named: give DATA and --dataset, or --phantoms for simulated images")
        for split in ("train", "val"):
            split_names(args.data, args.task, args.dataset, split)
    check_output_folder(args.output)


def _data(args: argparse.Namespace, recipe: Recipe) -> tuple[tuple[str, ...], Callable[[int], list[Examples]]]:
    """The names of the classes, and a function that reads images of a size: for training, and for validation.

    Data that is missing is reported before a model is loaded.
    """
    from ht_kernels.data import ClassificationDataset, SegmentationDataset
    from ht_kernels.train import read_examples

    lesion = "background", "lesion"
    if args.phantoms is not None:
        return lesion, lambda size: _simulate(args.phantoms, recipe.seed, size)
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


def _simulate(count: int, seed: int, size: int) -> list[Examples]:
    import os

    from ht_kernels.train import simulate_examples

    counts, workers = (count, _VALIDATION_PHANTOMS), len(os.sched_getaffinity(0))
    return [simulate_examples(n, seed + i, size, workers) for i, n in enumerate(counts)]


def _pairs(args: argparse.Namespace, recipe: Recipe) -> tuple[HTCLIP, Examples, Examples]:
    """The model, which knows what images go through, and images with captions for training and validation."""
    from ht_kernels.data import CaptionDataset
    from ht_kernels.train import read_examples

    model = _model(args, recipe, task=args.task)
    sets = [CaptionDataset(args.data, args.dataset, split, model.preprocess) for split in ("train", "val")]
    train, val = (read_examples(data, args.skip_bad) for data in sets)
    return model, train, val


def _model(args: argparse.Namespace, recipe: Recipe, **options: Any) -> Any:
    """The model that training starts with: an HTCLIP, or the network of a method that has no tower."""
    import torch

    from ht_kernels.train import build, new_baseline, start_from
    from ht_kernels.train.recipe import BASELINES

    if recipe.method in BASELINES:
        torch.manual_seed(recipe.seed)
        return new_baseline(recipe.method, **options, **model_options.given(args, *model_options.TOWER))
    names = (*model_options.TOWER, "variant", "spectral", "reduce_dim", "feature_layers")
    chosen = model_options.given(args, *names, "normalization") | options
    new = "published" if args.task == "contrastive" and args.recipe == "published" else None
    torch.manual_seed(recipe.seed)
    if not args.keep_adapters:
        chosen["start"] = recipe.start
    if args.checkpoint is not None:
        with model_options.plain_warnings():
            return start_from(args.checkpoint, recipe.method, args.keep_adapters, new, **chosen)
    if new is not None:
        chosen.setdefault("normalization", new)
    return build(recipe.method, **chosen)
