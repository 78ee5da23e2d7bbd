"""The files below a folder, and which of them are pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ht_kernels.media.dicom_file import is_dicom
from ht_kernels.media.image import SUFFIXES

from ..names import key, text_of, visible

_ENDINGS = (*SUFFIXES, ".dcm", ".dicom", ".ima")
_HEAD = 1024
"""Bytes of a file that tell whether it is DICOM."""


@dataclass(frozen=True)
class Found:
    """A picture below a folder.

    Attributes:
        path: its file.
        folders: those between, as text.
        stem: its name as text, without a known ending.
    """

    path: Path
    folders: tuple[str, ...]
    stem: str

    @property
    def place(self) -> str:
        """Its folders and its name, as a message says them."""
        return "/".join((*self.folders, text_of(self.path)))


def stem_of(name: str) -> str:
    """A name without its ending, if that is one of pictures; the numbers of DICOM names are no endings."""
    stem, _, ending = name.rpartition(".")
    return stem if stem and f".{ending.lower()}" in _ENDINGS else name


def files_below(folder: Path) -> Iterator[tuple[tuple[str, ...], Path]]:
    """The visible files below a folder, each with the folders between as text.

    A link to a folder above itself is skipped.

    Raises:
        InputError: a folder cannot be read, or a name is not UTF-8.
    """
    folders: list[tuple[Path, tuple[str, ...], tuple[Path, ...]]] = [(folder, (), (folder.resolve(),))]
    while folders:
        parent, above, within = folders.pop(0)
        for path in visible(parent):
            if not path.is_dir():
                yield above, path
            elif (real := path.resolve()) not in within:
                folders.append((path, (*above, text_of(path)), (*within, real)))


def pictures(folder: Path) -> list[Found]:
    """The pictures below a folder: files with an ending of images or DICOM, and DICOM files of any name.

    Raises:
        InputError: as :func:`files_below`.
    """
    found = []
    for folders, path in files_below(folder):
        name = text_of(path)
        stem = stem_of(name)
        if stem != name or _is_dicom(path):
            found.append(Found(path, folders, stem))
    return found


class ByName:
    """Pictures by the names that tables give them: with their folders, without, and without the ending."""

    def __init__(self, found: list[Found]) -> None:
        self._known: list[dict[str, list[Found]]] = [{}, {}, {}]
        for each in found:
            names = key(each.place), key(text_of(each.path)), each.stem
            for known, name in zip(self._known, names, strict=True):
                known.setdefault(name, []).append(each)

    def find(self, name: str) -> list[Found]:
        """The pictures that a name may mean: the one at this place, else all of this name."""
        written = key(name.replace("\\", "/").removeprefix("./"))
        return next((known[written] for known in self._known if written in known), [])


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(_HEAD))
    except OSError:
        return False
