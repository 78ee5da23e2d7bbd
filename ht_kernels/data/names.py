"""Names of files: which are hidden, and how a name in a list finds its file.

Two names are the same if they differ only in the Unicode form of accents (composed, as Linux and Windows write them, or
decomposed, as macOS does) or in the case of their ending: ``nódulo.PNG`` is ``nódulo.png``. Otherwise the case counts.

Lists hold names as text. Python spells a file's name differently where the locale is ASCII, with a surrogate for each
byte that is not; :func:`text_of` and :func:`on_disk` convert.
"""

from __future__ import annotations

import os
import unicodedata
from functools import lru_cache
from pathlib import Path

from ht_kernels.errors import InputError
from ht_kernels.media.opening import is_hidden


def visible(folder: Path) -> list[Path]:
    """What a folder holds, by name, without hidden files and folders.

    Raises:
        InputError: the folder cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if not is_hidden(path.name))
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be read: {error.strerror}") from error


def text_of(path: Path) -> str:
    """The name of a file as text, its accents composed.

    Raises:
        InputError: the name is not UTF-8.
    """
    try:
        return unicodedata.normalize("NFC", os.fsencode(path.name).decode())
    except UnicodeDecodeError:
        name = os.fsencode(path.name).decode("ascii", "backslashreplace")
        raise InputError(f"the name of the file {name} in {path.parent} is not UTF-8; rename it") from None


def on_disk(name: str) -> str:
    """How this process spells the name of a file in UTF-8."""
    return os.fsdecode(name.encode("utf-8", "surrogateescape"))


def key(name: str) -> str:
    """What names have in common that are the same."""
    stem, dot, ending = unicodedata.normalize("NFC", name).rpartition(".")
    return stem + dot + ending.lower()


def find(path: Path) -> Path:
    """The file ``path``, or where there is none another of the same name in its folder; else ``path``."""
    if path.exists() or not path.parent.is_dir():
        return path
    changed = path.parent.stat().st_mtime_ns
    return _by_key(path.parent, changed).get(_key_of_file(path), path)


@lru_cache(maxsize=4)
def _by_key(folder: Path, changed: int) -> dict[str, Path]:
    return {_key_of_file(path): path for path in reversed(visible(folder))}


def _key_of_file(path: Path) -> str:
    return key(os.fsencode(path.name).decode("utf-8", "surrogateescape"))
