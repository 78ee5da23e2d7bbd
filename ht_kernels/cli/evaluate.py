"""``ht-kernels evaluate``: a checkpoint on a split of data sets, or on simulated phantoms."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ht_kernels.classes import class_count
from ht_kernels.errors import InputError
from ht_kernels.files import check_output_folder
from ht_kernels.words import counted

from . import model_options, terminal

if TYPE_CHECKING:
    from ht_kernels.clip import HTCLIP
    from ht_kernels.train import Examples
    from ht_kernels.train.evaluate import Prompts

HELP = "measure a checkpoint on data sets: figures, pictures and a report"

_UNTUNED = Path("clip")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help=f"a file that ht-kernels train wrote; {model_options.NAMES}; a published file, whose tower --backbone and "
        "--pretrained name; or the word clip for the CLIP model of --backbone and --pretrained, without adapters",
    )
    parser.add_argument("data", type=Path, nargs="?", metavar="DATA", help="a folder in the published layout")
    parser.add_argument(
        "--dataset", nargs="+", metavar="NAME", help="data sets in DATA, such as BUSI; several make one table"
    )
    parser.add_argument("--split", default="test", help="train, val, test (default), or all of them")
    parser.add_argument("--phantoms", type=int, metavar="N", help="instead of DATA: N simulated phantoms")
    parser.add_argument("--seed", type=int, default=1000, help="seed of the phantoms (default: %(default)s)")
    parser.add_argument(
        "--skip-bad", action="store_true", help="report images that cannot be used, and go on without them"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder for the report and its pictures"
    )
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
    model_options.add_tower_arguments(parser)


def run(args: argparse.Namespace) -> int:
    try:
        from ht_kernels.train import simulate_examples
        from ht_kernels.train.evaluate import BATCH, evaluate, evaluate_all, lines, lines_of_all
    except ImportError as error:
        raise InputError(f"evaluation needs {error.name}: pip install 'ht-kernels[train]'") from error

    check_output_folder(args.output)
    if args.seed < 0:
        raise InputError(f"--seed {args.seed} was given, expected 0 or more")
    twice = [dataset for dataset, count in Counter(args.dataset or ()).items() if count > 1]
    if twice:
        raise InputError(f"--dataset names {twice[0]} more than once: name each data set once")
    model, name = _model(args)
    task, size = model.config.task, model.config.image_size or 224
    if task != "contrastive" and (args.templates or args.classes or args.retrieval):
        raise InputError(f"--templates, --classes and --retrieval need a contrastive model, and this one is for {task}")
    if args.retrieval and (args.templates or args.classes):
        raise InputError("--retrieval finds images and captions, and --templates and --classes are for classification")
    if args.phantoms is not None:
        if args.data or args.dataset or task != "segmentation" or args.phantoms < 1:
            raise InputError("--phantoms takes 1 or more instead of DATA and --dataset, and needs a segmentation model")
        simulated = simulate_examples(args.phantoms, args.seed, size)
        sets: dict[str, tuple[Examples, Prompts | None]] = {
            f"{counted(args.phantoms, 'phantom')} of seed {args.seed}": (simulated, None)
        }
    elif args.data and args.dataset:
        sets = {dataset: _read(args, model, dataset, size) for dataset in args.dataset}
    else:
        raise InputError("no data was named: give DATA and --dataset, or --phantoms for simulated images")
    for of, (examples, _) in sets.items():
        if task != "contrastive":
            try:
                examples.check_classes(class_count(model.config.num_classes))
            except InputError as error:
                raise InputError(f"{of}: {error}") from error
        for bad, why in examples.bad.items():
            print(f"left out {bad}: {why}")
    split = "" if args.phantoms is not None else f", {args.split} split"
    memory = terminal.enough_memory(
        f"a batch of {BATCH} images of {size}x{size}", "give a smaller --image-size, or take a machine with more"
    )
    if len(sets) == 1:
        ((of, (examples, prompts)),) = sets.items()
        with memory:
            figures = evaluate(model, examples, args.output, f"{name} on {of}{split}", prompts)
        print("\n".join(lines(figures)))
        print(f"wrote report.md, results.json, results.csv and pictures to {args.output}")
        return 0
    with memory:
        all_figures = evaluate_all(model, sets, args.output, f"{name}{split}")
    print("\n".join(lines_of_all(all_figures)))
    print(f"wrote report.md, results.json, results.csv and a folder for each data set to {args.output}")
    return 0


def _model(args: argparse.Namespace) -> tuple[Any, str]:
    """The model, an HTCLIP or a baseline without a tower, and its name in the report."""
    from ht_kernels.clip import HTCLIP
    from ht_kernels.clip.checkpoint import kind
    from ht_kernels.train.baselines import Baseline, is_baseline
    from ht_kernels.weights import locate

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
    return model, f"CLIP as it is ({', '.join(map(str, chosen.values())) or 'random weights'})"


def _read(args: argparse.Namespace, model: HTCLIP, dataset: str, size: int) -> tuple[Examples, Prompts | None]:
    """A split of a data set, and the prompts for its classes where a contrastive model needs them."""
    from ht_kernels.data import CaptionDataset, ClassificationDataset, SegmentationDataset
    from ht_kernels.train import read_examples
    from ht_kernels.train.zero_shot import fill, read_prompts

    where: dict[str, Any] = {"root": args.data, "name": dataset, "split": args.split}
    if model.config.task == "segmentation":
        return read_examples(SegmentationDataset(**where, image_size=size), args.skip_bad), None
    if model.config.task == "classification":
        return read_examples(ClassificationDataset(**where, image_size=size), args.skip_bad), None
    if args.retrieval:
        return read_examples(CaptionDataset(**where, preprocess=model.preprocess), args.skip_bad), None
    labels = ClassificationDataset(**where, classes=args.classes, preprocess=model.preprocess)
    if not labels.named:
        raise InputError(f"the classes of {dataset} have no names to ask for: give them with --classes")
    prompts = read_prompts(args.templates, labels.classes) if args.templates else fill(labels.classes)
    return read_examples(labels, args.skip_bad), prompts
