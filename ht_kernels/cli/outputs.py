"""The option ``--overwrite``, which every command has whose results may be there already."""

from __future__ import annotations

import argparse


def add_overwrite(parser: argparse._ActionsContainer) -> None:
    """Add ``--overwrite``; see :func:`ht_kernels.files.claim`."""
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the results of an earlier run; no other file is touched",
    )
