"""``ht-kernels completion``: a script that completes commands, options, choices and names of files in a shell."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "print a script that completes commands, options and file names in a shell"
EXAMPLE = "ht-kernels completion bash"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="the shell that reads the script")


def run(args: argparse.Namespace) -> int:
    from ht_kernels.packages import import_package

    from . import COMMANDS, parser

    shtab = import_package("shtab", "completion needs shtab", "shtab")
    whole, of_commands = parser.build(COMMANDS)
    for each in of_commands.values():
        for action in each._actions:
            if action.type is Path or action.dest == "input":
                kind = shtab.DIRECTORY if action.metavar in ("DIR", "DATA") else shtab.FILE
                action.complete = kind  # type: ignore[attr-defined]
    print(shtab.complete(whole, args.shell))
    return 0
