"""``ht-kernels train``: a model from a data set in the published layout, or from simulated phantoms."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ht_kernels.choices import FORMS, NORMALIZATIONS, VARIANTS
from ht_kernels.errors import InputError, did_you_mean
from ht_kernels.files import check_output_folder, written
from ht_kernels.outputs import SETTINGS, TRAINING
from ht_kernels.train.recipe import RECIPES, named_recipe

from . import config, model_options, terminal

if TYPE_CHECKING:
    from ht_kernels.clip import HTCLIP
    from ht_kernels.progress import Watch
    from ht_kernels.train import Examples, Fold, Outcome, Recipe, Trainer
    from ht_kernels.train.examples import DataSet

HELP = "train adapters and heads, or a baseline, by a named recipe"
EXAMPLE = "ht-kernels train --task segmentation data --dataset BUSI --backbone ViT-B-16 --output run"

_VALIDATION_PHANTOMS = 200
_OF_PHANTOMS = "background", "lesion"

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
    data.add_argument(
        "--classes",
        metavar="NAME,NAME,...",
        help="names of classes 0, 1, ..., for segmentation the background first; with three or more, masks hold these "
        "numbers (default: those in classes.txt of the data set, or background,lesion)",
    )
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
        "--fold",
        metavar="K/N",
        help="validate on fold K of N, counted from 0, of train and val together, and train on the others",
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
        help="start from its tower, from its heads where task and classes are the same, and, with --method ht or all, "
        "from its adapters; options of the model that are not given are its own; a file, "
        f"{model_options.NAMES}",
    )
    model.add_argument(
        "--keep-adapters",
        action="store_true",
        help="with --from: keep its adapters with a --method that freezes them, or give them a filter, --spectral",
    )
    model.add_argument(
        "--new-adapters",
        action="store_true",
        help="with --from: start with new adapters in place of its own, as --variant, --spectral and --start do too",
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
        f"{_tower_rates('full')}; with --method lora and masks or labels: {_tower_rates('lora')})",
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


def _tower_rates(method: str) -> str:
    """The learning rates of their own that the recipes have for what a method trains inside the tower."""
    rates = {recipe: named_recipe(recipe, "segmentation", method).adapter_learning_rate for recipe in RECIPES}
    return ", ".join(f"{recipe} {_word(rate)}" for recipe, rate in reversed(rates.items()) if rate is not None)


def _word(value: object) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


@dataclass
class _Data:
    """What is read of a data set.

    Attributes:
        train, val: the images of these splits.
        names: the names of the classes; none for captions.
        test: opens the test split, which is compared with the images that are trained on; None where there is none.
    """

    train: Examples
    val: Examples
    names: tuple[str, ...] = ()
    test: Callable[[], DataSet] | None = None


def run(args: argparse.Namespace) -> int:
    recipe = _recipe(args)
    fold = _check(args, recipe)
    of_start: list[str] = []
    with terminal.interruptible(), terminal.track() as watch:
        model, data = _read(args, recipe, of_start.append, watch)
        train, val, faults = _divide(args, recipe, fold, data, watch)
    del data  # a part may be all that is trained on, and the rest takes memory
    unfoldable = _prepare(model, recipe)
    memory = _enough_memory(recipe)
    with terminal.interruptible(), terminal.track() as watch:
        trainer = _trainer(args, model, recipe, train, val, watch)
        _announce(trainer, faults, of_start, unfoldable)
        with memory:
            outcome = _train(trainer)
    _conclude(trainer, outcome)
    return 0


def _check(args: argparse.Namespace, recipe: Recipe) -> Fold | None:
    """Refuse what can be refused before data and a model are read, and return the fold to validate on."""
    _check_options(args, recipe)
    fold = _fold(args)
    _check_inputs(args)
    _check_start(args, recipe)
    if args.phantoms is None:
        _check_data(args)
    try:
        import ht_kernels.train.trainer  # noqa: F401
        from ht_kernels.train.fingerprint import check_resume
    except ImportError as error:
        raise InputError(f"training needs {error.name}: pip install 'ht-kernels[train]'") from error
    check_resume(args.output / "last.pt", recipe)
    return fold


def _read(args: argparse.Namespace, recipe: Recipe, say: Callable[[str], None], watch: Watch) -> tuple[Any, _Data]:
    """The model that training starts with, and the images in its size.

    ``say`` receives a sentence that says what is taken from a checkpoint.
    """
    if args.task == "contrastive":
        return _pairs(args, recipe, say, watch)
    names, read = _data(args, recipe)
    model = _model(args, recipe, say, task=args.task, num_classes=len(names), class_names=names)
    if model.config.image_size is None:
        raise InputError(f"the tower takes images of {model.tower.image_size}, and data is read as squares")
    return model, read(model.config.image_size, watch)


def _divide(
    args: argparse.Namespace, recipe: Recipe, fold: Fold | None, data: _Data, watch: Watch
) -> tuple[Examples, Examples, list[str]]:
    """The images to train on, those to validate on, and what is wrong with them."""
    from ht_kernels.train import read_groups, take_fold
    from ht_kernels.train.examples import look_alikes
    from ht_kernels.train.faults import rare_labels, same_pixels

    train, val = data.train, data.val
    if fold is not None:
        train, val = take_fold(train, val, read_groups(args.data, args.task, args.dataset), fold, recipe.seed)
    faults = rare_labels(train, data.names) if args.task == "classification" else []
    train = train.share(recipe.ratio, recipe.seed, recipe.shots)
    if args.task == "segmentation" and (missing := train.missing_classes(data.names)):
        faults.append(f"no mask to train on has the class {' or '.join(missing)}, so the model cannot learn it")
    faults += same_pixels(train, zip(val.names, val.images, strict=True), "val")
    if data.test is not None:
        with suppress(InputError):  # evaluation says what is wrong with it
            faults += same_pixels(train, look_alikes(data.test(), train, watch), "test")
    return train, val, faults


def _prepare(model: Any, recipe: Recipe) -> str:
    """Choose what of the model is trained; the reason why the model cannot be folded, "" if it can."""
    from ht_kernels.deploy.folded import why_not_folded
    from ht_kernels.train import prepare
    from ht_kernels.train.recipe import BASELINES

    if recipe.method in BASELINES:
        return "it has no tower"
    unfoldable = why_not_folded(model)
    prepare(model, recipe.method, recipe.lora_dropout)
    return unfoldable or ""


def _enough_memory(recipe: Recipe) -> AbstractContextManager[None]:
    parts = "" if recipe.accumulate == 1 else f" in {recipe.accumulate} parts"
    return terminal.enough_memory(
        f"a batch of {recipe.batch} images{parts}", "give a smaller --batch, or compute it in more parts, --accumulate"
    )


def _trainer(
    args: argparse.Namespace, model: Any, recipe: Recipe, train: Examples, val: Examples, watch: Watch
) -> Trainer:
    """The training, new or gone on with, whose folder has the settings of the command."""
    from ht_kernels.train import Trainer

    trainer = Trainer(model, recipe, train, val, args.output, alarm=lambda line: terminal.warn([line]), watch=watch)
    if trainer.accelerator.is_main_process:
        config.write(args, args.output / SETTINGS)
    return trainer


def _announce(trainer: Trainer, faults: Sequence[str], of_start: Sequence[str], unfoldable: str) -> None:
    """Say what is to be known before a training begins."""
    train, val = trainer.train, trainer.val
    for name, why in {**train.bad, **val.bad}.items():
        trainer.say(f"left out {name}: {why}")
    for fault in faults:
        trainer.warn(fault)
    if unfoldable:
        trainer.say(f"The trained model runs in torch only; it cannot be folded, exported or streamed: {unfoldable}.")
    for line in of_start:
        trainer.say(line)
    trainer.say(f"{len(train)} images to train on, {len(val)} to validate\n{trainer.model.trainable_summary()}")


def _train(trainer: Trainer) -> Outcome:
    """Train to the end; an interrupt says how to go on."""
    try:
        return trainer.run()
    except KeyboardInterrupt:
        print(_how_to_go_on(trainer), file=sys.stderr)
        raise


def _conclude(trainer: Trainer, outcome: Outcome) -> None:
    """Say what came of a training, and let its best weights tell unfamiliar images."""
    from ht_kernels.train.recipe import BASELINES

    task, recipe = trainer.model.config.task, trainer.recipe
    score = {"segmentation": "Dice", "classification": "accuracy", "contrastive": "mean recall"}[task]
    score = "loss" if recipe.select == "loss" else score
    of_classes = _of_classes(trainer, outcome.best_epoch)
    trainer.say(
        f"best {score} on the validation split: {outcome.best:.4f} after epoch {outcome.best_epoch} of "
        f"{outcome.epochs}\n{of_classes}wrote best.safetensors, last.pt, log.csv, curves.png and tensorboard/ to "
        f"{trainer.output}"
    )
    measured = recipe.method not in BASELINES and task != "contrastive"
    if measured and outcome.best_epoch and trainer.accelerator.is_main_process:
        trainer.say(_calibrate(trainer))


def _how_to_go_on(trainer: Trainer) -> str:
    """What an interrupted training has saved, and what goes on with it."""
    if not trainer.saved:
        return "No epoch has ended, so nothing is saved yet: the same command begins again."
    return f"{trainer.saved} epochs are saved: the same command goes on from epoch {trainer.saved + 1}."


def _of_classes(trainer: Trainer, epoch: int) -> str:
    """A line with the Dice of each class in an epoch, where there are several; else nothing."""
    rows = [row for row in trainer.rows if row["epoch"] == epoch]
    found = {name: value for row in rows for name, value in row.items() if name.startswith("val_dice/")}
    each = [
        f"{name.partition('/')[2]} {'in no mask' if math.isnan(value) else f'{value:.4f}'}"
        for name, value in found.items()
    ]
    return f"of each class: {', '.join(each)}\n" if each else ""


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
    if args.classes is not None and (args.task == "contrastive" or args.phantoms is not None):
        of = "a contrastive model has none" if args.task == "contrastive" else "phantoms have background and lesion"
        raise InputError(f"--classes names the classes of masks or labels, and {of}: leave it out")
    if args.phantoms is not None and args.skip_bad:
        raise InputError("--skip-bad is for images in files, and --phantoms simulates them: leave one of them out")


def _check_inputs(args: argparse.Namespace) -> None:
    """Refuse values, data, a checkpoint and an output that do not do, before torch and the model are loaded."""
    from ht_kernels.data.expected import expected_layout
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
    if args.checkpoint is not None:
        model_options.check_checkpoint(args.checkpoint)
    if args.phantoms is not None and args.task == "contrastive":
        raise InputError("--phantoms is for --task segmentation; ht-kernels phantom writes phantoms with captions")
    if args.phantoms is not None and (args.data or args.dataset or args.task != "segmentation"):
        raise InputError("--phantoms stands for DATA and --dataset, and is for --task segmentation")
    if args.phantoms is None:
        if not (args.data and args.dataset):
            raise InputError(
                "no data was named: give DATA and --dataset, or --phantoms for simulated images"
                + expected_layout(args.task)
            )
        for split in ("train", "val"):
            split_names(args.data, args.task, args.dataset, split)
    _check_output(args)


def _check_output(args: argparse.Namespace) -> None:
    """Refuse a folder that cannot be written, or that holds what a training would replace and no training wrote.

    A training that has not ended an epoch has only its settings in the folder, and that of Python has its last.pt.
    """
    check_output_folder(args.output)
    settings = args.output / SETTINGS
    config.check_foreign(args, settings)
    there = written(args.output, TRAINING)
    if there and not (args.output / "last.pt").is_file():
        raise InputError(
            f"{there[0]} is there already, without the last.pt of a training that could go on: name another output"
        )


def _check_start(args: argparse.Namespace, recipe: Recipe) -> None:
    """Raise InputError if options of adapters contradict each other, or a tower of random weights would be frozen."""
    from ht_kernels.train.recipe import BASELINES, LAST, uses_adapters
    from ht_kernels.weights.named import names_weights

    method = recipe.method
    if args.keep_adapters and args.start is not None:
        raise InputError(f"--start {args.start} is for new adapters, and --keep-adapters keeps those of a checkpoint")
    if args.keep_adapters and args.new_adapters:
        raise InputError("--keep-adapters and --new-adapters were both given: leave one of them out")
    if args.new_adapters and not uses_adapters(method):
        raise InputError(f"--new-adapters is for --method ht or all, and --method {method} makes none: leave it out")
    for option, words in (("keep_adapters", "keeps those"), ("new_adapters", "is in place of those")):
        if getattr(args, option) and args.checkpoint is None:
            raise InputError(f"--{option.replace('_', '-')} {words} of a checkpoint: name it with --from")
    if method in BASELINES or args.checkpoint is not None or names_weights(args.backbone, args.pretrained):
        return
    if args.task == "contrastive":
        raise InputError(
            "the CLIP model would have random weights, and its text tower is never trained: name trained weights with "
            "--pretrained, or start from a trained checkpoint with --from"
        )
    if method not in ("full", "all"):
        raise InputError(
            f"the tower would have random weights, and --method {method} freezes "
            f"{'most of it' if method in LAST else 'it'}: name trained weights with --pretrained, start from a trained "
            "checkpoint with --from, or train the tower too with --method all (or full)"
        )


def _check_data(args: argparse.Namespace) -> None:
    """Refuse lists that share an image, and masks of several classes that would be read as two."""
    from ht_kernels.data.overlap import check_splits
    from ht_kernels.data.two_values import check_two_values

    check_splits(args.data, args.task, args.dataset)
    if args.task != "segmentation":
        return
    chosen = _chosen_classes(args)
    if chosen is None or len(chosen) == 2:
        check_two_values(
            args.data,
            args.dataset,
            ("train", "val"),
            chosen is not None,
            "If they are the numbers of classes, name all of these: with --classes background,NAME,NAME or a name a "
            f"line in {args.data / 'segmentation' / args.dataset / 'classes.txt'}",
        )


def _chosen_classes(args: argparse.Namespace) -> tuple[str, ...] | None:
    """The names of the classes, as ``--classes`` or ``classes.txt`` of the data set says them; None if neither does."""
    from ht_kernels.data.layout import chosen_class_names

    given = None if args.classes is None else tuple(name.strip() for name in args.classes.split(","))
    return chosen_class_names(args.data, args.task, args.dataset, given, "--classes")


def _fold(args: argparse.Namespace) -> Fold | None:
    from ht_kernels.train import Fold

    if args.fold is not None and (args.phantoms is not None or args.task == "contrastive"):
        raise InputError("--fold divides images in files, with masks or labels: leave it out")
    return None if args.fold is None else Fold.parse(args.fold)


def _data(args: argparse.Namespace, recipe: Recipe) -> tuple[tuple[str, ...], Callable[[int, Watch], _Data]]:
    """The names of the classes, and a function that reads the images in a size.

    Data that is missing is reported before a model is loaded.
    """
    from ht_kernels.data import ClassificationDataset, SegmentationDataset
    from ht_kernels.train import read_examples

    if args.phantoms is not None:
        return _OF_PHANTOMS, lambda size, watch: _simulate(args.phantoms, recipe.seed, size, watch)
    chosen = _chosen_classes(args)
    kind = SegmentationDataset if args.task == "segmentation" else ClassificationDataset
    sets = {split: kind(args.data, args.dataset, split, classes=chosen) for split in ("train", "val")}
    names: tuple[str, ...] = sets["train"].classes
    if len(names) < 2:
        raise InputError(f"every image of {args.dataset} has the label 0, so there is nothing to tell apart")

    def read(size: int, watch: Watch) -> _Data:
        for data in sets.values():
            data.image_size = size
        train, val = (read_examples(data, args.skip_bad, watch) for data in sets.values())
        return _Data(train, val, names, lambda: kind(args.data, args.dataset, "test", size, classes=chosen))

    return names, read


def _simulate(count: int, seed: int, size: int, watch: Watch) -> _Data:
    import os

    from ht_kernels.train import simulate_examples

    workers = len(os.sched_getaffinity(0))
    train = simulate_examples(count, seed, size, workers, watch)
    return _Data(train, simulate_examples(_VALIDATION_PHANTOMS, seed + 1, size, workers, watch), _OF_PHANTOMS)


def _pairs(args: argparse.Namespace, recipe: Recipe, say: Callable[[str], None], watch: Watch) -> tuple[HTCLIP, _Data]:
    """The model, which knows what images go through, and the images with captions."""
    from ht_kernels.data import CaptionDataset
    from ht_kernels.train import read_examples

    model = _model(args, recipe, say, task=args.task)

    def open_split(split: str) -> CaptionDataset:
        return CaptionDataset(args.data, args.dataset, split, model.preprocess)

    sets = [open_split(split) for split in ("train", "val")]
    train, val = (read_examples(data, args.skip_bad, watch) for data in sets)
    return model, _Data(train, val, test=lambda: open_split("test"))


def _model(args: argparse.Namespace, recipe: Recipe, say: Callable[[str], None], **options: Any) -> Any:
    """The model that training starts with: an HTCLIP, or the network of a method that has no tower.

    ``say`` receives a sentence that says what is taken from a checkpoint.
    """
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
        keep = True if args.keep_adapters else False if args.new_adapters or args.start is not None else None
        with model_options.plain_warnings():
            model = start_from(args.checkpoint, recipe.method, keep, new, say, **chosen)
        if model.draws_tower:
            raise InputError(
                f"{args.checkpoint} holds no text tower, which would have random weights: name those of the CLIP model "
                "with --pretrained"
            )
        return model
    if new is not None:
        chosen.setdefault("normalization", new)
    return build(recipe.method, **chosen)
