"""Writing files and folders that appear complete or not at all, and the bytes of tables and pictures for them."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InputError, reason

if TYPE_CHECKING:
    from matplotlib.figure import Figure


DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The numbers of errors that say that a disk, a user's share of it or a file cannot hold more."""

_DRAWN_BY = "ht-kernels "
"""In front of the name of a command, the software that a PNG file names."""


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


def read_object(path: Path) -> dict[str, Any]:
    """The values of a JSON object in a file; none where the file is missing, cannot be read or is something else."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


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
    """Refuse a folder for outputs that is a file, or cannot be written or made.

    Raises:
        InputError: it is.
    """
    path = Path(path)
    try:
        if os.path.lexists(path) and not path.is_dir():
            raise InputError(f"the output {path} is a file, expected a folder")
        _try_to_write(next(place for place in (path, *path.absolute().parents) if os.path.lexists(place)))
    except OSError as error:
        raise InputError(f"the output folder {path} cannot be written: {why(error)}") from error


def claim(folder: Path, names: Iterable[str | Path], overwrite: bool = False) -> None:
    """Refuse a folder for outputs that cannot be written, or that holds files which the outputs would replace.

    Args:
        folder: where the outputs go; it need not exist.
        names: the files that will be written, by their paths in it.
        overwrite: whether such files may be replaced. Pass the names to :func:`output_folder`, which removes them.

    Raises:
        InputError: it is such a folder.
    """
    check_output_folder(folder)
    _refuse(written(folder, names), overwrite)


def claim_files(paths: Sequence[Path], overwrite: bool = False) -> None:
    """Refuse files for outputs that cannot be written, or that are there; the first is the one that the user named.

    Args:
        paths: the files, all in one folder, which must exist.
        overwrite: whether they may be replaced.

    Raises:
        InputError: they are such files.
    """
    try:
        _try_to_write(paths[0].absolute().parent)
    except OSError as error:
        raise InputError(f"the output {paths[0]} cannot be written: {why(error)}") from error
    _refuse([path for path in paths if os.path.lexists(path)], overwrite)


def check_foreign(folder: Path, names: Iterable[str | Path], earlier: Iterable[str | Path]) -> None:
    """Refuse to replace files that no earlier run wrote.

    Args:
        folder: where the outputs go; it need not exist.
        names: the files that will be written, by their paths in it.
        earlier: those that an earlier run wrote.

    Raises:
        InputError: such a file is there.
    """
    ours = set(map(Path, earlier))
    if there := written(folder, {Path(name) for name in names} - ours):
        raise InputError(
            f"{there[0]} is there already, and no earlier run of this command wrote it: move it, or name another output"
        )


def written(folder: Path, names: Iterable[str | Path]) -> list[Path]:
    """What a folder holds of files with these paths in it."""
    return sorted({folder / name for name in names if os.path.lexists(folder / name)})


def within(listed: Any) -> list[Path]:
    """Those of a list of paths that stay within a folder; a report that lists files may be anybody's."""
    paths = [Path(file) for file in listed if isinstance(file, str)] if isinstance(listed, list) else []
    return [path for path in paths if path.name and not path.is_absolute() and ".." not in path.parts]


@contextmanager
def output_folder(path: str | Path, replaced: Iterable[str | Path] = (), strict: bool = False) -> Iterator[Path]:
    """Write a folder whose content appears only when all of it is written.

    ``with output_folder(path) as folder:`` gives a hidden folder on the same disk: in the final folder if that
    exists, which may be where another disk is mounted, otherwise beside it. When the block ends, the files of the
    hidden folder are moved to the final folder, where they replace files of the same name. Files that are there and
    have one of the names ``replaced``, which are paths in the folder, are removed first, and folders that this empties:
    results of an earlier run do not stay beside new ones. Every other file stays. If the block raises, also by an
    interrupt, the hidden folder is removed and the final folder does not change. With ``strict`` it does not change
    either where a file would be replaced that has none of these names.

    Raises:
        InputError: ``path`` is a file or cannot be written, such a file is there, or the block raises an OSError.
    """
    path, replaced = Path(path), tuple(replaced)
    check_output_folder(path)
    parent = path if path.is_dir() else path.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=parent))
        try:
            hidden.chmod(0o777 & ~_umask())
            yield hidden
            if strict:
                _check_strictly(hidden, path, replaced)
            earlier = written(path, replaced)
            for old in earlier:
                old.unlink()
            _remove_empty({folder for old in earlier for folder in old.parents if path in folder.parents})
            _publish(hidden, path)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
    except BrokenPipeError:  # of what is printed meanwhile
        raise
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


def png_bytes(figure: Figure, command: str | None = None) -> bytes:
    """A matplotlib figure as the bytes of a PNG file, which names the command that drew it, such as ``inspect``."""
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata=command and {"Software": _DRAWN_BY + command})
    return content.getvalue()


def drawn(folder: Path, names: Iterable[str], command: str) -> list[str]:
    """Those of the pictures with these names in a folder that name the command as what drew them."""
    return [name for name in names if (_DRAWN_BY + command).encode() in _head(folder / name)]


def _head(path: Path) -> bytes:
    """The first bytes of a file, in which a PNG file names its software; none where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(1024)
    except OSError:
        return b""


def _try_to_write(folder: Path) -> None:
    """Make something in a folder, and remove it: the system knows better than the folder's permissions."""
    os.rmdir(tempfile.mkdtemp(prefix=".ht-kernels-", dir=folder))


def _refuse(there: Sequence[Path], overwrite: bool) -> None:
    """Refuse to replace files unless that was asked for, and folders in any case."""
    if folder := next((path for path in there if path.is_dir()), None):
        raise InputError(f"{folder} is a folder, and a file of this name would be written: name another output")
    if there and not overwrite:
        more = f", and {len(there) - 1} more files that would be replaced" if len(there) > 1 else ""
        raise InputError(f"{there[0]} is there already{more}: name another output, or replace it with --overwrite")


def _check_strictly(hidden: Path, path: Path, earlier: Iterable[str | Path]) -> None:
    """Refuse to replace what is in ``path`` by what is in ``hidden``, but for files of an earlier run."""
    names = [file.relative_to(hidden) for file in sorted(hidden.rglob("*"))]
    check_foreign(path, [name for name in names if not ((hidden / name).is_dir() and (path / name).is_dir())], earlier)


def _remove_empty(folders: set[Path]) -> None:
    """Remove those of the folders that are empty, the inner ones first."""
    for folder in sorted(folders, reverse=True):
        if not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()


def _publish(hidden: Path, path: Path) -> None:
    if not path.exists():
        hidden.rename(path)
        return
    for entry in sorted(hidden.iterdir()):
        target = path / entry.name
        if entry.is_dir() and target.is_dir():
            _publish(entry, target)
        else:
            entry.replace(target)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
