"""What commands share that write DICOM files: the options for archives, and storing to them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ht_kernels.archive import Archive, archive
from ht_kernels.errors import InputError
from ht_kernels.words import counted

_CLASSES = {"dicom_seg": "1.2.840.10008.5.1.4.1.1.66.4", "dicom_sr": "1.2.840.10008.5.1.4.1.1.88.33"}
"""By the option that writes them, the SOP classes of Segmentations and of Comprehensive SR (PS3.4 B.5)."""


def add_arguments(to: argparse._ActionsContainer) -> None:
    """Add ``--dicom-seg``, ``--ohif`` and ``--store``."""
    to.add_argument(
        "--dicom-seg",
        action="store_true",
        help="of DICOM files: also write a DICOM Segmentation",
    )
    to.add_argument(
        "--ohif",
        action="store_true",
        help="with --dicom-seg: also state an orientation of the plane, without which the viewer OHIF shows none",
    )
    to.add_argument(
        "--store",
        action="append",
        metavar="ADDRESS",
        help="also store the DICOM files to the archive at dicom://HOST:PORT/AE_TITLE or "
        "dicomweb+http://HOST:PORT/PATH (or dicomweb+https); may be given several times",
    )


def named(args: argparse.Namespace) -> list[Archive]:
    """The archives of ``--store``; none is asked yet.

    Raises:
        InputError: an address is none, or there will be nothing to store.
    """
    if args.ohif and not args.dicom_seg:
        raise InputError("--ohif is about the DICOM Segmentation: give --dicom-seg, too")
    archives = [archive(address) for address in args.store or []]
    if archives and not _classes(args):
        raise InputError("--store needs DICOM files: give --dicom-seg or --dicom-sr, too")
    return archives


def check(archives: Sequence[Archive], args: argparse.Namespace) -> None:
    """Ask whether archives answer and take what will be written, before there is something to lose.

    Raises:
        InputError: one does not.
    """
    for each in archives:
        each.check(_classes(args))


def _classes(args: argparse.Namespace) -> list[str]:
    return [uid for option, uid in _CLASSES.items() if getattr(args, option)]


def store(archives: Sequence[Archive], files: Sequence[Path]) -> None:
    """Store those of the files that are DICOM, and say so.

    Raises:
        InputError: an archive has not all of them; the others have been tried.
    """
    written = [file for file in files if file.suffix == ".dcm"]
    names = written[0].name if len(written) == 1 else counted(len(written), "DICOM file")
    if archives and not written:
        print("nothing was stored, for no DICOM file was written", file=sys.stderr)
        return
    failures = []
    for each in archives:
        try:
            each.store(written)
            print(f"stored {names} to {each.name}")
        except InputError as error:
            failures.append(str(error))
    if failures:
        raise InputError(f"not stored: {'; '.join(failures)}. On disk there is {', '.join(map(str, written))}")
