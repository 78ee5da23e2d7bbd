"""``ht-kernels prepare``: a public download, or images with a table of captions, into the published layout."""

from __future__ import annotations

import argparse
from pathlib import Path

from ht_kernels.errors import InputError
from ht_kernels.words import counted

HELP = "turn a download of BUSI, TN3K or DDTI, or images with a table of captions, into the layout for training"

_SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="the unpacked download; for captions a CSV file of filename,Caption above its images, or its folder",
    )
    parser.add_argument(
        "--dataset",
        required=True,
        choices=("busi", "tn3k", "ddti", "captions"),
        help="which download it is; captions for MedPix, PMC-CURD, ROCOv2 and other images with such a table",
    )
    parser.add_argument("--name", metavar="NAME", help="for captions: the name of the data set, such as MedPix")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder that gets the layout; other data sets in it stay",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the splits (default: %(default)s)")
    parser.add_argument(
        "--header",
        action="store_true",
        help="begin labels.csv with a header line, which the published code cannot read",
    )


def run(args: argparse.Namespace) -> int:
    from ht_kernels.data.prepare import prepare, prepare_captions

    if args.dataset == "captions":
        if args.name is None:
            raise InputError("--dataset captions needs a name for the data set: give it with --name, such as MedPix")
        if args.header:
            raise InputError("--header is for labels.csv, and --dataset captions writes none: leave it out")
        report = prepare_captions(args.source, args.name, args.output, args.seed)
    elif args.name is not None:
        raise InputError(f"--name is for --dataset captions, and {args.dataset} has a name: leave it out")
    else:
        report = prepare(args.dataset, args.source, args.output, args.seed, args.header)
    counts = ", ".join(f"{count} {split}" for split, count in report.splits.items())
    print(f"{report.dataset}: {counted(sum(report.splits.values()), 'image')}: {counts}")
    _list("exact duplicates, the first of each pair left out", [" = ".join(pair) for pair in report.exact])
    _list("pairs of near duplicates, each pair in one split", [" ~ ".join(pair) for pair in report.near])
    _list("images left out", [f"{name}: {why}" for name, why in report.left_out.items()])
    print(f"wrote {args.output}; to check its files: cd {args.output} && sha256sum --check {report.checksums.name}")
    return 0


def _list(title: str, lines: list[str]) -> None:
    if lines:
        rest = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        print(f"{len(lines)} {title}:", *lines[:_SHOWN], *rest, sep="\n  ")
