"""``ht-kernels evaluate``: a checkpoint or an exported file on a split of data sets, or on simulated phantoms."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ht_kernels.choices import TASKS
from ht_kernels.errors import InputError
from ht_kernels.files import claim
from ht_kernels.outputs import FOLDS, SETTINGS, evaluations
from ht_kernels.weights import locate, task_of
from ht_kernels.words import counted

from . import config, model_options, outputs, terminal

if TYPE_CHECKING:
    from ht_kernels.clip import HTCLIP
    from ht_kernels.progress import Watch
    from ht_kernels.train import Examples
    from ht_kernels.train.evaluate import Prompts

HELP = "measure a checkpoint or an exported file on data sets: figures, pictures and a report"
EXAMPLE = "ht-kernels evaluate run/best.safetensors data --dataset BUSI --output run/test"

_UNTUNED = Path("clip")
_PHANTOMS = "--phantoms takes 1 or more instead of DATA and --dataset, and needs a segmentation model"
_FOLD = "--fold divides images in files, with masks or labels, and stands for --split: leave one out"
_SEED_OF_PHANTOMS = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    came = parser.add_argument_group("inputs")
    to = parser.add_argument_group("outputs")
    came.add_argument(
        "checkpoint",
        type=Path,
        nargs="?",
        metavar="CHECKPOINT",
        help=f"a file that ht-kernels train or export wrote; {model_options.NAMES}; a published file, whose tower "
        "--backbone and --pretrained name; or the word clip for the CLIP model of --backbone and --pretrained, without "
        "adapters",
    )
    came.add_argument("data", type=Path, nargs="?", metavar="DATA", help="a folder in the published layout")
    came.add_argument(
        "--dataset", nargs="+", metavar="NAME", help="data sets in DATA, such as BUSI; several make one table"
    )
    came.add_argument(
        "--split", default="test", help="train, val, test, or all for the three together (default: %(default)s)"
    )
    came.add_argument("--fold", metavar="K/N", help="instead of a split: the images that train --fold K/N validated on")
    came.add_argument(
        "--folds",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="instead of CHECKPOINT and DATA: mean and standard deviation over what evaluate wrote to these folders",
    )
    came.add_argument("--phantoms", type=int, metavar="N", help="instead of DATA: N simulated phantoms")
    came.add_argument(
        "--seed",
        type=int,
        help=f"seed of the phantoms (default: {_SEED_OF_PHANTOMS}), or with --fold that of train",
    )
    came.add_argument(
        "--skip-bad", action="store_true", help="report images that cannot be used, and go on without them"
    )
    to.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the report and its pictures")
    outputs.add_overwrite(to)
    text = parser.add_argument_group("contrastive models, which classify images by their similarity to sentences")
    text.add_argument(
        "--templates",
        type=Path,
        metavar="FILE",
        help="file with a sentence a line: with {} where the class goes, or 'class: sentence' for one class",
    )
    text.add_argument(
        "--classes", nargs="+", metavar="NAME", help="names of labels 0, 1, ... (default: the data set's)"
    )
    text.add_argument(
        "--retrieval",
        action="store_true",
        help="instead of classes: how well images find their captions, and captions their images",
    )
    model_options.add_tower_arguments(parser.add_argument_group("model"))


def run(args: argparse.Namespace) -> int:
    _check(args)
    try:
        from ht_kernels.class_names import class_count
        from ht_kernels.train import simulate_examples
        from ht_kernels.train.evaluate import BATCH, evaluate, evaluate_all, lines, lines_of_all
    except ImportError as error:
        raise InputError(f"evaluation needs {error.name}: pip install 'ht-kernels[train]'") from error

    if args.folds is not None:
        return _over_folds(args)
    model, name = _model(args)
    task, size = model.config.task, model.config.image_size or 224
    _check_task(args, task)
    if args.phantoms is not None:
        seed = _SEED_OF_PHANTOMS if args.seed is None else args.seed
        with terminal.track() as watch:
            simulated = simulate_examples(args.phantoms, seed, size, watch=watch)
        sets: dict[str, tuple[Examples, Prompts | None]] = {
            f"{counted(args.phantoms, 'phantom')} of seed {seed}": (simulated, None)
        }
    else:
        with terminal.track() as watch:
            sets = {dataset: _read(args, model, dataset, size, watch) for dataset in args.dataset}
    for of, (examples, _) in sets.items():
        if task != "contrastive":
            try:
                examples.check_classes(class_count(model.config.num_classes))
            except InputError as error:
                raise InputError(f"{of}: {error}") from error
        for bad, why in examples.bad.items():
            print(f"left out {bad}: {why}")
    split = "" if args.phantoms is not None else f", fold {args.fold}" if args.fold else f", {args.split} split"
    remarks = [f"{of}: {words}" for of, (examples, _) in sets.items() if (words := _remark(args.checkpoint, examples))]
    terminal.warn(remarks)
    noted = f" ({'; '.join(remarks)})" if remarks else ""
    memory = terminal.enough_memory(
        f"a batch of {BATCH} images of {size}x{size}", "give a smaller --image-size, or take a machine with more"
    )
    if len(sets) == 1:
        ((of, (examples, prompts)),) = sets.items()
        with memory, terminal.track() as watch:
            figures = evaluate(model, examples, args.output, f"{name} on {of}{split}{noted}", prompts, watch)
        config.write(args, args.output / SETTINGS)
        print("\n".join(lines(figures)))
        print(f"wrote report.md, results.json, results.csv and pictures to {args.output}")
        return 0
    with memory, terminal.track() as watch:
        all_figures = evaluate_all(model, sets, args.output, f"{name}{split}{noted}", watch)
    config.write(args, args.output / SETTINGS)
    print("\n".join(lines_of_all(all_figures)))
    print(f"wrote report.md, results.json, results.csv and a folder for each data set to {args.output}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse what can be refused before a model is loaded: options, data sets, the checkpoint and the output."""
    from ht_kernels.data.layout import check_dataset, read_text, split_names
    from ht_kernels.deploy.places import is_exported
    from ht_kernels.train.results import check_foreign, check_foreign_folds

    if args.folds is not None:
        if args.checkpoint is not None:
            raise InputError(
                f"--folds stands for CHECKPOINT and DATA, and {args.checkpoint} came: leave one of them out"
            )
        claim(args.output, FOLDS, args.overwrite)
        check_foreign_folds(args.output)
        return
    if args.checkpoint is None:
        raise InputError("no checkpoint was named: give CHECKPOINT, or the folders of evaluations with --folds")
    twice = [dataset for dataset, count in Counter(args.dataset or ()).items() if count > 1]
    if twice:
        raise InputError(f"--dataset names {twice[0]} more than once: name each data set once")
    if args.retrieval and (args.templates or args.classes):
        raise InputError("--retrieval finds images and captions, and --templates and --classes are for classification")
    if args.phantoms is not None and (args.data or args.dataset or args.phantoms < 1):
        raise InputError(_PHANTOMS)
    if args.phantoms is None and not (args.data and args.dataset):
        raise InputError("no data was named: give DATA and --dataset, or --phantoms for simulated images")
    if args.fold is not None and (args.phantoms is not None or args.split != "test"):
        raise InputError(_FOLD)
    if args.seed is not None and args.seed < 0:
        raise InputError(f"--seed {args.seed} was given, expected 0 or more")
    if args.seed is not None and args.phantoms is None and args.fold is None:
        raise InputError("--seed is of phantoms, --phantoms, or of folds, --fold, and neither was given: leave it out")
    model_options.check_image_size(args)
    task = None
    if args.checkpoint != _UNTUNED and not is_exported(locate(args.checkpoint)):
        task = task_of(model_options.check_checkpoint(args.checkpoint))
    if task in TASKS:
        _check_task(args, task)
    for name in args.dataset or ():
        check_dataset(args.data, name)
        if task in ("segmentation", "classification"):
            split_names(args.data, task, name, args.split)
    if args.templates:
        read_text(args.templates)
    claim(args.output, (*evaluations(args.dataset or []), SETTINGS), args.overwrite)
    check_foreign(args.output, args.dataset or ())
    config.check_foreign(args, args.output / SETTINGS)


def _check_task(args: argparse.Namespace, task: str) -> None:
    """Refuse options that a model for a task does not use."""
    if task != "contrastive" and (args.templates or args.classes or args.retrieval):
        raise InputError(f"--templates, --classes and --retrieval need a contrastive model, and this one is for {task}")
    if args.phantoms is not None and task != "segmentation":
        raise InputError(_PHANTOMS)
    if args.fold is not None and task == "contrastive":
        raise InputError(_FOLD)


def _remark(checkpoint: Path, examples: Examples) -> str | None:
    """What is to be said of images that the training of a checkpoint has used."""
    from ht_kernels.train.trained_on import remark

    return None if checkpoint == _UNTUNED else remark(locate(checkpoint), examples)


def _over_folds(args: argparse.Namespace) -> int:
    """The mean and standard deviation over evaluations."""
    from ht_kernels.files import csv_bytes, output_folder
    from ht_kernels.train.over_folds import summarize_folds

    rows, table = summarize_folds(args.folds)
    with output_folder(args.output, FOLDS) as folder:
        (folder / "folds.csv").write_bytes(csv_bytes(rows))
        (folder / "folds.md").write_text("\n".join(table) + "\n", encoding="utf-8")
    print("\n".join(table))
    print(f"wrote folds.md and folds.csv to {args.output}")
    return 0


def _model(args: argparse.Namespace) -> tuple[Any, str]:
    """The model, an HTCLIP, a baseline without a tower or an exported file, and its name in the report."""
    from ht_kernels.clip import HTCLIP
    from ht_kernels.clip.checkpoint import kind
    from ht_kernels.deploy import Session
    from ht_kernels.deploy.places import is_exported
    from ht_kernels.train.baselines import Baseline, is_baseline
    from ht_kernels.train.exported import Exported

    if args.checkpoint != _UNTUNED and is_exported(locate(args.checkpoint)):
        if model_options.given(args, *model_options.TOWER):
            raise InputError(
                f"{args.checkpoint} has its tower in it: leave --backbone, --pretrained and --image-size out"
            )
        return Exported(Session.open(args.checkpoint)), args.checkpoint.name
    if is_baseline(args.checkpoint):
        if args.backbone or args.pretrained:
            raise InputError(f"--backbone and --pretrained name a tower, and the network in {args.checkpoint} has none")
        return Baseline.load(args.checkpoint, args.image_size), args.checkpoint.name
    if args.checkpoint != _UNTUNED:
        alone = kind(locate(args.checkpoint)) == "adapters"
        if alone and not (args.backbone and (args.pretrained or ":" in args.backbone)):
            raise InputError(
                f"{args.checkpoint} holds tuned adapters alone, and an evaluation needs the CLIP model that they were "
                "tuned in too: name it with --backbone and its weights with --pretrained. For heads on these adapters "
                "take ht-kernels train --from, with --keep-adapters"
            )
        of_task = {"task": "contrastive"} if alone else {}
        return model_options.load_model(args, **of_task)[0], args.checkpoint.name

    chosen = model_options.given(args, *model_options.TOWER)
    model = HTCLIP(**chosen, task="contrastive", adapter_layers=()).eval()
    if model.draws_tower:
        raise InputError(
            f"the CLIP model {model.config.backbone} alone has random weights, which find nothing: name trained ones "
            "with --pretrained"
        )
    return model, f"CLIP as it is ({', '.join(map(str, chosen.values()))})"


def _read(
    args: argparse.Namespace, model: HTCLIP, dataset: str, size: int, watch: Watch
) -> tuple[Examples, Prompts | None]:
    """A split of a data set, and the prompts for its classes where a contrastive model needs them."""
    from ht_kernels.data import CaptionDataset, ClassificationDataset, SegmentationDataset
    from ht_kernels.data.two_values import check_two_values
    from ht_kernels.train import read_examples
    from ht_kernels.train.zero_shot import fill, read_prompts

    if args.fold is not None:
        return _fold(args, model, dataset, size, watch), None
    where: dict[str, Any] = {"root": args.data, "name": dataset, "split": args.split}
    if model.config.task == "segmentation":
        masks = SegmentationDataset(**where, image_size=size, classes=_classes_of_masks(model, args.data, dataset))
        if len(masks.classes) == 2:
            advice = "If they are the numbers of classes, evaluate a model that was trained on these"
            check_two_values(args.data, dataset, [args.split], masks.named, advice)
        return read_examples(masks, args.skip_bad, watch), None
    if model.config.task == "classification":
        of_labels = ClassificationDataset(**where, image_size=size)
        if of_labels.named:
            _check_classes(model, of_labels.classes, dataset)
        return read_examples(of_labels, args.skip_bad, watch), None
    if args.retrieval:
        return read_examples(CaptionDataset(**where, preprocess=model.preprocess), args.skip_bad, watch), None
    labels = ClassificationDataset(**where, classes=args.classes, preprocess=model.preprocess)
    if not labels.named:
        raise InputError(f"the classes of {dataset} have no names to ask for: give them with --classes")
    prompts = read_prompts(args.templates, labels.classes) if args.templates else fill(labels.classes)
    return read_examples(labels, args.skip_bad, watch), prompts


def _classes_of_masks(model: HTCLIP, root: Path, dataset: str) -> tuple[str, ...] | None:
    """The names of the classes by which the masks of a data set are read: its own, else the model's if it has more than
    two; None for two classes without names."""
    from ht_kernels.class_names import names_of
    from ht_kernels.data.layout import class_names

    known = class_names(root, "segmentation", dataset)
    if known is not None:
        _check_classes(model, known, dataset)
        return known
    names = names_of(model.config.num_classes, model.config.class_names)
    return names if len(names) > 2 else None


def _check_classes(model: HTCLIP, known: tuple[str, ...], dataset: str) -> None:
    """Raise InputError unless the classes of a data set, whose names are ``known``, are those of the model."""
    from ht_kernels.class_names import names_of

    config = model.config
    names = names_of(config.num_classes, config.class_names)
    numbered = config.class_names is None or names == tuple(map(str, range(len(names))))
    if len(names) != len(known) or not (numbered or names == known):
        ours = f"{len(names)} classes without names" if numbered else f"the classes {', '.join(names)}"
        raise InputError(
            f"{dataset} has the classes {', '.join(known)}, and the model {ours}. Their order counts; where only words "
            f"differ, write the model's into {dataset}/classes.txt"
        )


def _fold(args: argparse.Namespace, model: HTCLIP, dataset: str, size: int, watch: Watch) -> Examples:
    """The images on which a training with ``--fold`` validated."""
    from ht_kernels.data import ClassificationDataset, SegmentationDataset
    from ht_kernels.train import Fold, Recipe, read_examples, read_groups, take_fold

    fold, seed = Fold.parse(args.fold), Recipe.seed if args.seed is None else args.seed
    task, classes = model.config.task, None
    if task == "segmentation":
        classes = _classes_of_masks(model, args.data, dataset)
    kind = SegmentationDataset if task == "segmentation" else ClassificationDataset
    sets = [kind(args.data, dataset, split, size, classes=classes) for split in ("train", "val")]
    train, val = (read_examples(data, args.skip_bad, watch) for data in sets)
    return take_fold(train, val, read_groups(args.data, task, dataset), fold, seed)[1]
