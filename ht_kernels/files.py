"""Writing files and folders that appear complete or not at all, and the bytes of tables and pictures for them."""

from __future__ import annotations

import csv
import errno
import io
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InputError, reason

if TYPE_CHECKING:
    from matplotlib.figure import Figure


DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The numbers of errors that say that a disk, a user's share of it or a file cannot hold more."""


def why(error: OSError) -> str:
    """The cause of an error in words, such as "No space left on device", without the path, which a message names."""
    return error.strerror or reason(error)


def write_whole(path: Path, content: bytes, what: str) -> None:
    """Write a file so that it appears complete or not at all. An existing file is replaced.

    The content goes into a temporary file beside ``path``, which is then renamed. ``what`` names the file in the error
    message, as in "the checkpoint".

    Raises:
        InputError: the file cannot be written.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(f"{what} {path} cannot be written: it is a device or a pipe, not a file")
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{what} {path} cannot be written: {why(error)}") from error


def append_whole(path: Path, content: bytes, what: str) -> None:
    """Append to a file, or make it, so that all of the content is there or none of it.

    ``what`` names the file in the error message, as in "the log".

    Raises:
        InputError: the file cannot be written.
    """
    try:
        before = path.stat().st_size if path.exists() else None
        try:
            with path.open("ab") as file:
                file.write(content)
        except OSError:
            if before is None:
                path.unlink(missing_ok=True)
            else:
                os.truncate(path, before)
            raise
    except OSError as error:
        raise InputError(f"{what} {path} cannot be written: {why(error)}") from error


def read_whole(path: Path, what: str) -> bytes:
    """Return the content of a file. ``what`` names the file in the error message.

    Raises:
        InputError: the file is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {why(error)}") from error


def make_folder(path: Path) -> None:
    """Make a folder and its parents, unless they exist.

    Raises:
        InputError: the folder cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the output folder {path} cannot be made: {why(error)}") from error


def check_output_folder(path: str | Path) -> None:
    """Refuse a folder for outputs that is a file, cannot be written, or cannot be made.

    Raises:
        InputError: it is.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"the output {path} is a file, expected a folder")
    if path.is_dir() and not os.access(path, os.W_OK):
        raise InputError(f"the output folder {path} cannot be written")
    there = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    if not there.is_dir():
        raise InputError(f"the output folder {path} cannot be made: {os.strerror(errno.ENOTDIR)}: {there}")
    if not os.access(there, os.W_OK):
        raise InputError(f"the output folder {path} cannot be made: {there} cannot be written")


@contextmanager
def output_folder(path: str | Path, merge: bool = False) -> Iterator[Path]:
    """Write a folder whose content appears only when all of it is written.

    ``with output_folder(path) as folder:`` gives a hidden folder on the same disk: in the final folder if that
    exists, which may be where another disk is mounted, otherwise beside it. When the block ends, the entries of the
    hidden folder are moved to the final folder, where they replace entries of the same name; with ``merge``, folders in
    it keep what is in them beside the new files. If the block raises, also by an interrupt, the hidden folder is
    removed and the final folder does not change.

    Raises:
        InputError: ``path`` is a file or cannot be written, or the block raises an OSError.
    """
    path = Path(path)
    check_output_folder(path)
    parent = path if path.is_dir() else path.absolute().parent
    try:
        if not parent.exists():  # if it is a file, mkdtemp raises a clear error below
            parent.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=parent))
        try:
            hidden.chmod(0o777 & ~_umask())
            yield hidden
            _publish(hidden, path, merge)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
    except OSError as error:
        raise InputError(f"the output {path} cannot be written: {why(error)}") from error


def csv_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A table as CSV. The header has the names of all rows; a cell is empty if its row lacks the name."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
    table.writeheader()
    table.writerows(rows)
    return utf8(text.getvalue())


def utf8(text: str) -> bytes:
    """Text for a file. A file's name that Python could not decode gets the bytes that it has on disk."""
    return text.encode("utf-8", "surrogateescape")


def png_bytes(figure: Figure) -> bytes:
    """A matplotlib figure as the bytes of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _publish(hidden: Path, path: Path, merge: bool) -> None:
    if not path.exists():
        hidden.rename(path)
        return
    for entry in sorted(hidden.iterdir()):
        target = path / entry.name
        if merge and entry.is_dir() and target.is_dir():
            _publish(entry, target, merge)
            continue
        if target.is_dir():
            shutil.rmtree(target)
        entry.replace(target)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
