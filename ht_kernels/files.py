"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from .errors import InputError


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
