"""The command ``ht-kernels``: one module per subcommand.

A subcommand module has ``HELP`` (one line), ``add_arguments(parser)`` and ``run(args) -> int``, and imports what is
heavy inside ``run``, so that ``ht-kernels --help`` is quick.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from ht_kernels.errors import BackendError, InputError

COMMANDS = ("info", "demo", "stream", "export", "inspect", "train", "evaluate", "phantom", "prepare", "bench")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 2 for bad input, 3 for a failed check, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="ht-kernels", description="Hybrid-tuning of CLIP for ultrasound.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = importlib.import_module(f"{__name__}.{name}")
        subparser = subparsers.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    try:
        status: int = args.run(args)
    except (InputError, BackendError) as error:
        print(f"ht-kernels {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"ht-kernels {args.command}: interrupted", file=sys.stderr)
        return 130
    return status
