"""The parser of ``ht-kernels``: its errors are sentences that name the word that was meant, and help has examples."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import ht_kernels
from ht_kernels.errors import did_you_mean

from . import config


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that refuses empty paths, keeps the lines of its epilog, and says what may have been meant."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.register("type", Path, _path)
        self._words: list[str] = []

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        self._words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        if message.startswith("the following arguments are required"):  # one of them may be there, misspelled
            options = [word for word in self._words if word.startswith("--") and len(word) > 2]
            self.check_unknown(word for word in options if not self._known(word))
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help says more\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = [str(choice) for choice in action.choices]
            came = f"{value!r} is unknown; expected one of {', '.join(names)}{did_you_mean(str(value), names)}"
            raise argparse.ArgumentError(action, came)

    def _known(self, word: str) -> bool:
        """Whether a word is an option, maybe abbreviated."""
        return any(option.startswith(word.partition("=")[0]) for option in self._option_string_actions)

    def check_unknown(self, words: Iterable[str]) -> None:
        """Refuse words that parsing left over; an option is compared with those that there are."""
        for word in words:
            if not word.startswith("-"):
                self.error(f"{word} is one word too many, or belongs in front of the options")
            known = self._option_string_actions
            self.error(f"{word} is unknown{did_you_mean(word.partition('=')[0], known)}")


def build(commands: Iterable[str]) -> tuple[Parser, dict[str, Parser]]:
    """The parser of the command line, and that of each command."""
    parser = Parser(prog="ht-kernels", description="Hybrid-tuning of CLIP for ultrasound.")
    parser.add_argument("--version", action="version", version=f"ht-kernels {ht_kernels.__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    of_commands = {}
    for name in commands:
        module = importlib.import_module(f"ht_kernels.cli.{name}")
        subparser = subparsers.add_parser(
            name, help=module.HELP, description=module.HELP, epilog=f"example:\n  {module.EXAMPLE}"
        )
        module.add_arguments(subparser)
        if name in config.COMMANDS:
            config.add_argument(subparser)
        subparser.set_defaults(run=module.run)
        of_commands[name] = subparser
    return parser, of_commands


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("the name is empty: give the name of a file or folder")
    return Path(text)
