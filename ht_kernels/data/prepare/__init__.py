"""Public downloads and one's own images into the published layout: duplicates found, splits that keep groups whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ht_kernels.errors import InputError
from ht_kernels.files import check_output_folder
from ht_kernels.progress import Watch, unwatched

from . import busi, ddti, tn3k
from .captions import prepare_captions
from .coco import read_coco
from .folder import read_folder
from .lay_out import lay_out
from .nnunet import read_nnunet
from .own import Own
from .report import Report
from .splits import SHARES_OF_OWN
from .table import read_table
from .write import check_name

__all__ = ["READERS", "Own", "Report", "prepare", "prepare_captions", "prepare_own"]

READERS = {"busi": busi.read, "tn3k": tn3k.read, "ddti": ddti.read}


def prepare(
    dataset: str,
    source: str | Path,
    output: str | Path,
    seed: int = 0,
    header: bool = False,
    watch: Watch = unwatched,
) -> Report:
    """Turn a download into the published layout.

    Other data sets in the output folder stay. The new one appears complete or not at all. Images and masks become gray
    PNG files of their own size.

    Args:
        dataset: busi, tn3k or ddti.
        source: the unpacked download.
        output: the folder that gets ``all``, ``segmentation`` and, where there are labels, ``classification``.
        seed: of the splits that the download does not prescribe.
        header: begin ``labels.csv`` with the line ``image,label``, which the published code cannot read.
        watch: receives how many images were read, and then how many were written.

    Raises:
        InputError: the download is not what was expected, a file is damaged, nothing is left for a split, or the
            output is no folder or cannot be written. Nothing is written then.
    """
    source, output = Path(source), Path(output)
    if dataset not in READERS:
        raise InputError(f"data set {dataset!r} is unknown; expected one of {', '.join(READERS)}")
    if not source.is_dir():
        raise InputError(f"there is no folder {source}; expected the unpacked download of {dataset}")
    check_output_folder(output)
    return lay_out(READERS[dataset](source), source, output, seed, header, watch=watch)


def prepare_own(
    own: Own,
    output: str | Path,
    images: str | Path | None = None,
    masks: str | Path | None = None,
    labels: str | Path | None = None,
    table: str | Path | None = None,
    nnunet: str | Path | None = None,
    coco: str | Path | None = None,
    seed: int = 0,
    header: bool = False,
    shares: Mapping[str, float] = SHARES_OF_OWN,
    watch: Watch = unwatched,
) -> Report:
    """Turn one's own images with masks, labels or both into the published layout.

    Args:
        own: the name of the data set, its classes and its patients.
        output: the folder that gets ``all``, and ``segmentation`` and ``classification``.
        images, masks, labels: as for :func:`ht_kernels.data.prepare.folder.read_folder`.
        table: in their place, a table as for :func:`ht_kernels.data.prepare.table.read_table`.
        nnunet: in their place, a folder in nnU-Net's layout; see :mod:`ht_kernels.data.prepare.nnunet`.
        coco: a file of COCO's instances, with ``images`` or beside them; see :mod:`ht_kernels.data.prepare.coco`.
        seed: of the splits.
        header: begin ``labels.csv`` with the line ``image,label``, which the published code cannot read.
        shares: of the splits, which add up to 1.
        watch: receives how many images were read, and then how many were written.

    Raises:
        InputError: something is missing, damaged or does not fit, nothing is left for a split, or the output is no
            folder or cannot be written. Nothing is written then.
    """
    check_name(own.name)
    check_output_folder(output)
    _check_apart(Path(output), images, masks)
    if table is not None:
        download, source = read_table(own, Path(table)), Path(table)
    elif nnunet is not None:
        download, source = read_nnunet(own, Path(nnunet)), Path(nnunet)
    elif coco is not None:
        download, source = read_coco(own, Path(coco), None if images is None else Path(images)), Path(coco)
    elif images is not None:
        paths = (None if path is None else Path(path) for path in (masks, labels))
        download, source = read_folder(own, Path(images), *paths), Path(images)
    else:
        raise InputError("no images were named: give their folder with --images, or a table of them with --table")
    return lay_out(download, source, Path(output), seed, header, shares, watch)


def _check_apart(output: Path, *inputs: str | Path | None) -> None:
    """Refuse an output inside an input folder, in which the next preparation would take what this one wrote."""
    for folder in inputs:
        if folder is not None and output.resolve().is_relative_to(Path(folder).resolve()):
            raise InputError(f"the output {output} lies in {folder}, whose images it is made of: name one beside it")
