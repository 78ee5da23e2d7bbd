"""What a user says of images of one's own: the name of the data set, patients, labels and classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ht_kernels.errors import InputError

from ..layout import read_pairs, read_text
from ..names import text_of
from .found import ByName, Found
from .labels import number_labels
from .mask_values import MOST_CLASSES

SUBFOLDERS = "subfolders"
"""In place of a table of patients: the images of a subfolder are one patient's."""

_SHOWN = 10


@dataclass(frozen=True)
class Own:
    """What the user says.

    Attributes:
        name: of the data set.
        classes: names of the classes in masks, or of the labels where there are no masks; empty for none.
        groups: a table of image and patient, or :data:`SUBFOLDERS`, or None.
    """

    name: str
    classes: tuple[str, ...] = ()
    groups: str | Path | None = None

    def __post_init__(self) -> None:
        if self.classes:
            odd = [name for name in self.classes if not name or any(not letter.isprintable() for letter in name)]
            if odd or len(set(self.classes)) < len(self.classes) or not 2 <= len(self.classes) <= MOST_CLASSES:
                raise InputError(
                    f"--classes {','.join(self.classes)} was given, expected 2 to {MOST_CLASSES} different names with "
                    "commas between them, such as background,lesion,vessel"
                )

    def new_name(self, image: Found) -> str:
        """The name of an image in the layout: that of the data set, its folders and its own."""
        return "_".join([self.name.lower(), *image.folders, image.stem.replace("\\", "_")]) + ".png"

    def patients(self, images: Sequence[Found]) -> tuple[dict[Path, str], list[str]]:
        """The patient of each image by its path, empty where nothing says it, and notes.

        Raises:
            InputError: the table is missing or no table, does not name an image, or gives it two patients.
        """
        if self.groups == SUBFOLDERS:
            alone = [image for image in images if not image.folders]
            if alone:
                raise InputError(f"--groups subfolders was given, and {said(alone)} are in none; put them into one")
            return {image.path: "/".join(image.folders) for image in images}, []
        if self.groups is None:
            folders = sorted({"/".join(image.folders) for image in images})
            if len(folders) < 2:
                return {}, []
            return {}, [
                f"images lie in {len(folders)} folders, such as {folders[-1]}: if each is a patient, prepare again "
                "with --groups subfolders, which keeps a patient's images in one split"
            ]
        table = Path(self.groups)
        column = "group" if "group" in read_text(table).partition("\n")[0].lower() else "patient"
        patients = in_table(table, column, images)
        missing = [image for image in images if image.path not in patients]
        if missing:
            raise InputError(f"{table} has no {column} for {said(missing)}; add a row image,{column} for each image")
        return patients, []


def in_table(table: Path, column: str, images: Sequence[Found]) -> dict[Path, str]:
    """The value of each image in a CSV file of ``image`` and ``column``, by the image's path.

    Images are named with their folders, or without where that is unique, and with their ending or without. Rows that
    name no image are passed over.

    Raises:
        InputError: the file is missing or no table, a name means several images, or an image has two values.
    """
    known, values = ByName(list(images)), dict[Path, str]()
    for number, name, value in read_pairs(table, column, f"a {column}"):
        meant = known.find(name)
        if len(meant) > 1:
            raise InputError(f"{table}, row {number}: {name} may be {said(meant)}; write the folder, too")
        for image in meant:
            if values.setdefault(image.path, value) != value:
                raise InputError(
                    f"{table}, row {number}: {name} has the {column} {value}, and {values[image.path]} before"
                )
    return values


def labelled(labels: dict[Path, str], classes: Sequence[str]) -> tuple[dict[Path, int], tuple[str, ...], list[str]]:
    """The number of each label by the image's path, the names of the classes, and a note that says them."""
    numbers, names = number_labels({str(path): label for path, label in labels.items()}, classes)
    notes = [f"labels: {', '.join(f'{i} = {name}' for i, name in enumerate(names))}"] if names else []
    return {path: numbers[str(path)] for path in labels}, names, notes


def said(found: Sequence[Found | Path]) -> str:
    """The names of the first ten, and how many more there are."""
    names = [each.place if isinstance(each, Found) else text_of(each) for each in found]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
