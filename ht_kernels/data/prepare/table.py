"""Images with masks or labels, by a table: a CSV file with the columns image, mask, label, patient and split."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from ht_kernels.errors import InputError, reason

from ..layout import SPLITS, read_text
from ..names import find
from .found import Found, stem_of
from .item import Download, Item
from .mask_values import coding_of
from .own import Own, labelled

COLUMNS = ("image", "mask", "label", "patient", "split")
_ALIKE = 0.75
"""How alike a word and the name of a column are, from 0 to 1, for one to be the other misspelled."""
_SPLITS = {**{split: split for split in SPLITS}, "training": "train", "valid": "val", "validation": "val"}


def read_table(own: Own, table: Path) -> Download:
    """The images that a table names, with paths relative to it.

    The first line names the columns, of which ``image`` and ``mask`` or ``label`` are needed. A row without a mask
    where there is such a column, or whose files are missing, is left out and reported. Without a split a row gets one.

    Raises:
        InputError: the file is missing or no such table, a row has another number of cells or a split that is none, no
            row can be used, or masks have other values than the classes.
    """
    if own.groups is not None:
        raise InputError("--groups is for images in folders; a table has a column patient")
    download = Download(own.name, [])
    rows = list(_rows(table, download))
    if not rows:
        first = next(iter(download.left_out.items()), None)
        raise InputError(f"{table} has no row that can be used" + (f"; the first: {': '.join(first)}" if first else ""))
    masks = [mask for _, mask, _ in rows if mask is not None]
    if masks:
        read, notes = coding_of(masks, own.classes)
        download.notes += notes
        download.mask_classes = own.classes
    numbers: dict[Path, int] = {}
    written = {image: row["label"] for image, _, row in rows if row.get("label")}
    if written:
        numbers, download.classes, notes = labelled(written, () if masks else own.classes)
        download.notes += notes
    alone = {path: name for name, path in _names(rows)}
    for image, mask, row in rows:
        name = own.new_name(Found(image, *alone[image]))
        item = Item(
            name,
            image,
            None if mask is None else read(mask),
            numbers.get(image),
            row.get("patient") or name,
            _SPLITS[row["split"].lower()] if row.get("split") else None,
        )
        download.items.append(item)
    return download


def _rows(table: Path, download: Download) -> Iterator[tuple[Path, Path | None, dict[str, str]]]:
    """The image and the mask of each row that can be used, and its cells by column."""
    try:
        lines = list(csv.reader(io.StringIO(read_text(table), newline="")))
    except csv.Error as error:
        raise InputError(f"{table} is no CSV file: {reason(error)}") from error
    cells = [(number, [cell.strip() for cell in line]) for number, line in enumerate(lines, 1) if any(line)]
    header = [cell.lower() for cell in cells[0][1]] if cells else []
    if "image" not in header or not {"mask", "label"} & set(header):
        raise InputError(
            f"{table} begins with the line {','.join(header)!r}, expected the names of columns: image, and mask or "
            "label; also patient and split"
        )
    for column in header:
        if column in COLUMNS:
            continue
        meant = get_close_matches(column, COLUMNS, 1, _ALIKE)
        if meant and meant[0] not in header:
            raise InputError(f"{table} has the column {column!r}: rename it to {meant[0]}, or take it out")
        download.notes.append(f"the column {column!r} is not read")
    seen: set[Path] = set()
    for number, row in cells[1:]:
        if len(row) != len(header):
            raise InputError(
                f"{table}, row {number}: {len(row)} cells came, expected {len(header)}: {','.join(header)}"
            )
        named = {column: cell for column, cell in zip(header, row, strict=True) if column in COLUMNS}
        split = named.get("split", "")
        if split and split.lower() not in _SPLITS:
            raise InputError(f"{table}, row {number}: the split is {split}, expected {', '.join(SPLITS)} or nothing")
        at = f"row {number}, {named['image']}"
        lacking = [column for column in ("image", "mask") if column in named and not named[column]]
        if lacking or not (named.get("mask") or named.get("label")):
            download.left_out[at] = f"its {lacking[0] if lacking else 'label'} is empty"
            continue
        paths = {column: _path(table, named[column]) for column in ("image", "mask") if named.get(column)}
        missing = [named[column] for column, path in paths.items() if not path.is_file()]
        if missing:
            download.left_out[at] = f"there is no file {missing[0]} beside the table"
        elif paths["image"] in seen:
            raise InputError(f"{table}, row {number}: {named['image']} is in a row before, too")
        else:
            seen.add(paths["image"])
            yield paths["image"], paths.get("mask"), named


def _path(table: Path, name: str) -> Path:
    return find(table.parent / name.replace("\\", "/"))


def _names(rows: list[tuple[Path, Path | None, dict[str, str]]]) -> Iterator[tuple[tuple[tuple[str, ...], str], Path]]:
    """The folders and the stem of each image; without folders where all stems differ."""
    places = [PurePosixPath(row["image"].replace("\\", "/")) for _, _, row in rows]
    stems = [stem_of(place.name) for place in places]
    differ = len(set(stems)) == len(stems)
    for (image, _, _), place, stem in zip(rows, places, stems, strict=True):
        folders = () if differ else tuple(part for part in place.parts[:-1] if part not in ("/", "..", "."))
        yield (folders, stem), image
