"""Writing files and folders that appear complete or not at all, and the bytes of tables and pictures for them."""

from __future__ import annotations

import csv
import io
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_whole(path: Path, content: bytes, what: str) -> None:
    """Write a file so that it appears complete or not at all. An existing file is replaced.

    The content goes into a temporary file beside ``path``, which is then renamed. ``what`` names the file in the error
    message, as in "the checkpoint".

    Raises:
        InputError: the file cannot be written.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{what} {path} cannot be written: {error.strerror}") from error


def read_whole(path: Path, what: str) -> bytes:
    """Return the content of a file. ``what`` names the file in the error message.

    Raises:
        InputError: the file is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror}") from error


def make_folder(path: Path) -> None:
    """Make a folder and its parents, unless they exist.

    Raises:
        InputError: the folder cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the output folder {path} cannot be made: {error.strerror}") from error


@contextmanager
def output_folder(path: str | Path) -> Iterator[Path]:
    """Write a folder whose content appears only when all of it is written.

    ``with output_folder(path) as folder:`` gives a hidden folder beside the final one. When the block ends, the entries
    of the hidden folder are moved to the final folder, where they replace entries of the same name. If the block
    raises, also by an interrupt, the hidden folder is removed and the final folder does not change.

    Raises:
        InputError: ``path`` is a file or cannot be written, or the block raises an OSError.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"the output {path} is a file, expected a folder")
    if path.is_dir() and not os.access(path, os.W_OK):
        raise InputError(f"the output folder {path} cannot be written")
    parent = path.absolute().parent
    try:
        if not parent.exists():  # if it is a file, mkdtemp raises a clear error below
            parent.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=parent))
        try:
            hidden.chmod(0o777 & ~_umask())
            yield hidden
            _publish(hidden, path)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
    except OSError as error:
        raise InputError(f"the output {path} cannot be written: {error.strerror or error}") from error


def csv_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A table as CSV. The header has the names of all rows; a cell is empty if its row lacks the name."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode()


def png_bytes(figure: Figure) -> bytes:
    """A matplotlib figure as the bytes of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _publish(hidden: Path, path: Path) -> None:
    if not path.exists():
        hidden.rename(path)
        return
    for entry in sorted(hidden.iterdir()):
        target = path / entry.name
        if target.is_dir():
            shutil.rmtree(target)
        entry.replace(target)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
