"""The command ``ht-kernels``: one module per subcommand.

A subcommand module has ``HELP`` (one line), ``EXAMPLE`` (a command), ``add_arguments(parser)`` and
``run(args) -> int``. It imports what is heavy inside ``run``, and there torch and all that imports it after arguments,
outputs and inputs were checked, so that help and refusals are quick.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from contextlib import suppress

from ht_kernels.errors import BackendError, InputError
from ht_kernels.files import DISK_FULL
from ht_kernels.packages import need_torch, what_is_missing

from . import config, parser

COMMANDS = (
    "info",
    "demo",
    "predict",
    "stream",
    "export",
    "convert",
    "inspect",
    "train",
    "evaluate",
    "phantom",
    "prepare",
    "bench",
    "completion",
)

_BY_TORCH = ("demo", "export", "convert", "inspect", "train", "evaluate", "phantom", "bench")
"""The commands that need torch in any case."""

_AT_ONCE = ("predict", "prepare", "evaluate", "phantom", "inspect", "convert")
"""The commands whose results appear at their end, all or none."""

_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
"""The numbers of errors that say that the system does not let a file be read, made or replaced."""

_CLOSED_PIPE = 128 + 13
"""The status that a shell gives a program which wrote to a pipe that nobody reads."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Returns the exit status: 0, 2 for bad input, 3 for a failed check, 130 when interrupted, 141 where nobody reads the
    output. Help ends in SystemExit with status 0, and words that cannot be parsed with status 2.
    """
    words = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a locale may lack the letters of a file's name
    command = next((word for word in words if word in COMMANDS), "")
    name = f"ht-kernels {command}".rstrip()
    try:
        try:
            args = parse(words)
            if args.command in _BY_TORCH:
                need_torch()
            status: int = args.run(args)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except (InputError, BackendError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        lacking = what_is_missing(error)
        if lacking is None:
            raise
        print(f"{name}: {lacking}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno == errno.EPIPE:
            _drop_output()
            return _CLOSED_PIPE
        if error.errno not in (*DISK_FULL, *_REFUSED):
            raise
        where = error.filename or "a file or the standard output"
        wrong = "cannot be written" if error.errno in DISK_FULL else "cannot be read or written"
        with suppress(BrokenPipeError):  # of a standard error that goes into the same closed pipe
            print(f"{name}: {where} {wrong}: {error.strerror}", file=sys.stderr)
        _drop_output()
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted{'; nothing was written' if command in _AT_ONCE else ''}", file=sys.stderr)
        return 130
    return status


def parse(words: list[str]) -> argparse.Namespace:
    """The arguments of a command, ``run`` and ``settings`` among them.

    Raises:
        InputError: the file of ``--config`` does not fit.
        SystemExit: help was asked for, or words cannot be parsed.
    """
    whole, of_commands = parser.build(COMMANDS)
    if words and words[0] in of_commands:
        words = [words[0], *config.with_config(words[1:], of_commands[words[0]])]
    args, unknown = whole.parse_known_args(words)
    command = of_commands[args.command]
    command.check_unknown(unknown)
    args.settings = config.settings(args, command)
    return args


def _drop_output() -> None:
    """Let what was printed and could not be written go, which Python would otherwise try to write again at its end."""
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
