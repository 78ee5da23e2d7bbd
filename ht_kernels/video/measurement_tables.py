"""Measurements as tables: a row for each frame and class, in CSV and JSON, with the same columns whatever was found."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ht_kernels.files import utf8
from ht_kernels.measurement import Measurement
from ht_kernels.outputs import MEASUREMENTS

_DIGITS = 6
"""Significant ones of a number: measurements are not as exact."""

COLUMNS = (
    *("file", "frame", "seconds", "state", "why", "class", "unit", "spacing_x_mm", "spacing_y_mm"),
    *("pixels", "regions", "area", "region_area", "long_diameter", "short_diameter"),
    *("centroid_x", "centroid_y", "box_x", "box_y", "box_width", "box_height"),
    *(f"{line}_{axis}{end}_px" for line in ("long", "short") for end in (1, 2) for axis in "xy"),
)
"""Lengths are in the unit of the row, areas in its square, and the ends of diameters in pixels in any case."""


def rows_of(
    measurements: Sequence[Measurement] | None,
    class_names: Sequence[str],
    *,
    file: str | None,
    state: str,
    why: str,
    frame: int | None = None,
    seconds: float | None = None,
) -> Iterator[dict[str, Any]]:
    """The rows of a frame, one for each class but the background.

    Args:
        measurements: of the frame's mask; None where it has none, so that all cells of measurements are None.
        class_names: of all classes, the background first.
        file: what the frame is of.
        state: of the frame.
        why: what there is to say of the state, such as why there is no mask.
        frame: its number from 1 on; None for an image.
        seconds: its time in the clip; None for an image.
    """
    head = {"file": file, "frame": frame, "seconds": None if seconds is None else round(seconds, 3), "state": state}
    for place, name in enumerate(class_names[1:]):
        found = None if measurements is None else measurements[place]
        said = why or ("no pixel has this class" if found is not None and not found.pixels else "")
        row = dict.fromkeys(COLUMNS) | head | {"why": said, "class": name}
        yield row if found is None else row | _cells(found)


class MeasurementTables:
    """Writes rows as they come into ``measurements.csv`` and ``measurements.json``. Call ``close`` when done.

    Attributes:
        largest: for each class that was found, by its name, the row in which it has the most pixels.
    """

    def __init__(self, folder: Path) -> None:
        table, rows = (folder / name for name in MEASUREMENTS)
        self._csv, self._json = table.open("wb"), rows.open("wb")
        self._csv.write(_line(COLUMNS))
        self._json.write(b"[")
        self._empty = True
        self.largest: dict[str, dict[str, Any]] = {}

    def write(self, row: dict[str, Any]) -> None:
        """Append a row."""
        self._csv.write(_line(row.values()))
        self._json.write(utf8(f"{'' if self._empty else ','}\n{json.dumps(row)}"))
        self._empty = False
        if row["pixels"] and row["pixels"] > self.largest.get(row["class"], row | {"pixels": 0})["pixels"]:
            self.largest[row["class"]] = row

    def close(self) -> None:
        """Write what is pending."""
        self._json.write(b"\n]\n")
        self._csv.close()
        self._json.close()


def write_tables(folder: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows into the two tables of a folder that is there."""
    tables = MeasurementTables(folder)
    for row in rows:
        tables.write(row)
    tables.close()


def _cells(found: Measurement) -> dict[str, Any]:
    cells: dict[str, Any] = {"unit": found.unit, "pixels": found.pixels, "regions": found.regions, "area": found.area}
    if found.spacing is not None:
        cells |= {"spacing_x_mm": found.spacing.x, "spacing_y_mm": found.spacing.y}
    if found.long is not None and found.short is not None and found.centroid is not None and found.box is not None:
        cells |= {"region_area": found.region_area, "long_diameter": found.long.length}
        cells |= {"short_diameter": found.short.length}
        cells |= dict(zip(("centroid_x", "centroid_y"), found.centroid, strict=True))
        cells |= dict(zip(("box_x", "box_y", "box_width", "box_height"), found.box, strict=True))
        places = [number for line in (found.long, found.short) for end in line.ends for number in end]
        cells |= dict(zip(COLUMNS[-8:], places, strict=True))
    return {name: float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value for name, value in cells.items()}


def _line(cells: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return utf8(text.getvalue())
