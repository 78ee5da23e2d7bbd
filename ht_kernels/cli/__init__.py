"""The command ``ht-kernels``: one module per subcommand.

A subcommand module has ``HELP`` (one line), ``add_arguments(parser)`` and ``run(args) -> int``, and imports what is
heavy inside ``run``, so that ``ht-kernels --help`` is quick.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import sys

from ht_kernels.errors import BackendError, InputError
from ht_kernels.files import DISK_FULL

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
)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 2 for bad input, 3 for a failed check, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="ht-kernels", description="Hybrid-tuning of CLIP for ultrasound.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = importlib.import_module(f"{__name__}.{name}")
        subparser = subparsers.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a locale may lack the letters of a file's name
    args = parser.parse_args(argv)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except (InputError, BackendError) as error:
        print(f"ht-kernels {args.command}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (*DISK_FULL, errno.EPIPE):
            raise
        where = error.filename or "a file or the standard output"
        print(f"ht-kernels {args.command}: {where} cannot be written: {error.strerror}", file=sys.stderr)
        _drop_output()
        return 2
    except KeyboardInterrupt:
        print(f"ht-kernels {args.command}: interrupted", file=sys.stderr)
        return 130
    return status


def _drop_output() -> None:
    """Let what was printed and could not be written go, which Python would otherwise try to write again at its end."""
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
