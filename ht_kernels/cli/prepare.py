"""``ht-kernels prepare``: one's own images, or a public download, into the published layout."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ht_kernels.choices import TASKS
from ht_kernels.errors import InputError
from ht_kernels.files import claim
from ht_kernels.outputs import dataset
from ht_kernels.words import counted

from . import outputs, terminal

if TYPE_CHECKING:
    from ht_kernels.data.prepare import Report
    from ht_kernels.progress import Watch

HELP = "turn your own images and masks or labels, or a public download, into the layout for training"
EXAMPLE = "ht-kernels prepare folder --images images --masks masks --output data"

_DOWNLOADS = "busi", "tn3k", "ddti", "captions"
_OWN = "folder", "nnunet", "coco"
_OPTIONS = "name", "images", "masks", "labels", "table", "groups", "classes", "split", "header"
_TAKES = {
    "folder": _OPTIONS,
    "nnunet": ("name", "groups", "split"),
    "coco": ("name", "images", "groups", "split"),
    "captions": ("name",),
    **dict.fromkeys(("busi", "tn3k", "ddti"), ("header",)),
}
"""The options that each kind of data has beside ``--output`` and ``--seed``."""

_SOURCES = {
    "nnunet": "the folder with dataset.json",
    "coco": "a JSON file of instances",
    "captions": "a table or its folder",
}

_SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        nargs="*",
        metavar="KIND SOURCE",
        help="folder, for your own images in folders; nnunet and a folder in its layout; coco and a JSON file of "
        "instances; busi, tn3k or ddti and the unpacked download; captions and a CSV file of filename,Caption above "
        "its images, or its folder",
    )
    parser.add_argument(
        "--dataset", choices=(*_OWN, *_DOWNLOADS), metavar="KIND", help="another way to name the kind of SOURCE"
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder that gets the layout; other data sets in it stay",
    )
    outputs.add_overwrite(parser)
    parser.add_argument(
        "--name", metavar="NAME", help="of the data set, for training; for captions it is needed (default: own)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the splits (default: %(default)s)")
    parser.add_argument(
        "--header",
        action="store_true",
        default=None,
        help="begin labels.csv with a header line, which the published code cannot read",
    )
    own = parser.add_argument_group("your own images")
    own.add_argument(
        "--images", type=Path, metavar="DIR", help="images, also in folders below; masks may lie beside them"
    )
    own.add_argument(
        "--masks", type=Path, metavar="DIR", help="masks, with the names of their images or such as NAME_mask"
    )
    own.add_argument(
        "--labels", type=Path, metavar="FILE", help="CSV file of image,label (without: a folder for each class)"
    )
    own.add_argument(
        "--table", type=Path, metavar="FILE", help="instead: CSV file of image,mask and maybe label, patient, split"
    )
    own.add_argument(
        "--groups",
        metavar="FILE",
        help="CSV file of image,patient, or the word subfolders: a patient's images stay in one split",
    )
    own.add_argument(
        "--classes", metavar="A,B,...", help="names of the classes in masks, the background first; or of labels"
    )
    own.add_argument("--split", metavar="P/P/P", help="percentages of train, val and test (default: 70/15/15)")


def run(args: argparse.Namespace) -> int:
    kind, source = _kind_and_source(args)
    given = [name for name in _OPTIONS if getattr(args, name) is not None and name not in _TAKES[kind]]
    if given:
        takers = [other for other, options in _TAKES.items() if given[0] in options]
        raise InputError(f"--{given[0]} is for {', '.join(takers)}; {kind} does not take it: leave it out")
    name = args.name or "own" if kind in (*_OWN, "captions") else kind.upper()
    claim(args.output, dataset(name), args.overwrite)
    with terminal.interruptible(), terminal.track() as watch:
        report = _prepare(kind, source, args, watch)
    counts = ", ".join(f"{count} {split}" for split, count in report.splits.items())
    print(f"{report.dataset}: {counted(sum(report.splits.values()), 'image')}: {counts}")
    for note in report.notes:
        print(note)
    _list("exact duplicates, the first of each pair left out", [" = ".join(pair) for pair in report.exact])
    _list("pairs of near duplicates, each pair in one split", [" ~ ".join(pair) for pair in report.near])
    _list("images left out", [f"{name}: {why}" for name, why in report.left_out.items()])
    print(f"wrote {args.output}; to check its files: cd {args.output} && sha256sum --check {report.checksums.name}")
    if kind in _OWN:
        task = next(task for task in TASKS if (args.output / task / report.dataset).is_dir())
        data = shlex.join([task, str(args.output), "--dataset", report.dataset])
        print(f"to train on it: ht-kernels train --task {data} --from breast --epochs 10 --output run")
    return 0


def _kind_and_source(args: argparse.Namespace) -> tuple[str, Path | None]:
    """The kind of data, which the first word or ``--dataset`` names, and the source behind it."""
    words = list(args.what)
    kind = args.dataset or (words.pop(0) if words else None)
    if kind not in _TAKES:
        came = "nothing to prepare was named" if kind is None else f"{kind} is no kind of data"
        raise InputError(
            f"{came}: for your own images take ht-kernels prepare folder --images DIR --masks DIR --output DATA; for a "
            f"download or another layout name the kind, {', '.join((*_OWN[1:], *_DOWNLOADS))}, and behind it the source"
        )
    if kind == "folder" and words:
        raise InputError(f"{words[0]} came behind folder: name the folders with --images and --masks")
    if kind != "folder" and len(words) != 1:
        came = f"{len(words)} came: {' '.join(words)}" if words else "none came"
        raise InputError(f"{kind} needs one source, {_SOURCES.get(kind, 'the unpacked download')}, and {came}")
    return kind, Path(words[0]) if words else None


def _prepare(kind: str, source: Path | None, args: argparse.Namespace, watch: Watch) -> Report:
    from ht_kernels.data.prepare import Own, prepare, prepare_captions, prepare_own
    from ht_kernels.data.prepare.splits import SHARES_OF_OWN, parse_shares

    if kind in _OWN:
        if args.table is not None and (args.images or args.masks or args.labels):
            raise InputError("--table stands for --images, --masks and --labels: leave them or the table out")
        classes = tuple(name.strip() for name in args.classes.split(",")) if args.classes is not None else ()
        own = Own(args.name or "own", classes, args.groups)
        shares = SHARES_OF_OWN if args.split is None else parse_shares(args.split)
        layout = {} if source is None else {kind: source}
        paths = {name: getattr(args, name) for name in ("images", "masks", "labels", "table")} | layout
        more = {"seed": args.seed, "header": bool(args.header), "shares": shares, "watch": watch}
        return prepare_own(own, args.output, **paths, **more)
    assert source is not None
    if kind == "captions":
        if args.name is None:
            raise InputError("captions need a name for the data set: give it with --name, such as MedPix")
        return prepare_captions(source, args.name, args.output, args.seed, watch)
    return prepare(kind, source, args.output, args.seed, bool(args.header), watch)


def _list(title: str, lines: list[str]) -> None:
    if lines:
        rest = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        print(f"{len(lines)} {title}:", *lines[:_SHOWN], *rest, sep="\n  ")
