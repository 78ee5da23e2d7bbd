"""Files and folders that appear whole or not at all, and the bytes of tables and pictures that go into them."""

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
    """Write a file through a temporary one beside it, over a file of that name from before.

    ``what`` names it in the error: "the checkpoint".

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
    """The content of a file; ``what`` names it in the error.

    Raises:
        InputError: the file is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror}") from error


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless they are there.

    Raises:
        InputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the output folder {path} cannot be made: {error.strerror}") from error


@contextmanager
def output_folder(path: str | Path) -> Iterator[Path]:
    """A folder whose content appears under its final names only when everything is written.

    ``with output_folder(path) as folder:`` gives a hidden folder beside the final one. When the block ends, the entries
    of the hidden folder take their places, over entries of the same name from before. When the block raises, also by
    an interrupt, the hidden folder vanishes and the final one stays as it was.

    Raises:
        InputError: the path is a file, or cannot be written; every OSError of the block counts as that.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"the output {path} is a file, expected a folder")
    if path.is_dir() and not os.access(path, os.W_OK):
        raise InputError(f"the output folder {path} cannot be written")
    parent = path.absolute().parent
    try:
        if not parent.exists():  # of a file in its place mkdtemp says that it is no directory
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
    """A table in CSV: a header with every name that a row has, then the rows; what a row lacks is left empty."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode()


def png_bytes(figure: Figure) -> bytes:
    """A figure as a PNG file."""
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
