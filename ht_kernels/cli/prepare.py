"""``ht-kernels prepare``: a public download into the published layout."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "turn a public download of BUSI, TN3K or DDTI into the layout for training"

_SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SOURCE", help="the unpacked download")
    parser.add_argument("--dataset", required=True, choices=("busi", "tn3k", "ddti"), help="which download it is")
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
    from ht_kernels.data.prepare import prepare

    report = prepare(args.dataset, args.source, args.output, args.seed, args.header)
    counts = ", ".join(f"{count} {split}" for split, count in report.splits.items())
    print(f"{report.dataset}: {sum(report.splits.values())} images: {counts}")
    _list("exact duplicates, the first of each pair left out", [" = ".join(pair) for pair in report.exact])
    _list("pairs of near duplicates, each pair in one split", [" ~ ".join(pair) for pair in report.near])
    _list("images left out", [f"{name}: {why}" for name, why in report.left_out.items()])
    print(f"wrote {args.output}; to check its files: cd {args.output} && sha256sum --check {report.checksums.name}")
    return 0


def _list(title: str, lines: list[str]) -> None:
    if lines:
        rest = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        print(f"{len(lines)} {title}:", *lines[:_SHOWN], *rest, sep="\n  ")
