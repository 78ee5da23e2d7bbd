"""What takes long to make is made once: a folder per key in the user's cache, safe between processes."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ht_kernels.errors import InputError


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/ht_kernels``, or ``~/.cache/ht_kernels``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ht_kernels"


def cached(
    key: Mapping[str, Any], make: Callable[[Path], None], good: Callable[[Path], bool], root: Path | None = None
) -> Path:
    """The folder of ``key``, made by ``make`` unless it is there and ``good``.

    Of several processes that ask at once, one makes it and the others wait; a folder appears whole or not at all.

    Args:
        key: all that the content depends on, as JSON can hold it.
        make: fills the empty folder it is given.
        good: whether a folder from before can be used.
        root: of all folders; default :func:`cache_folder`.

    Raises:
        InputError: the cache cannot be written.
    """
    root = root or cache_folder()
    folder = root / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the file is closed, by a crash too
            if folder.is_dir() and good(folder):
                return folder
            hidden = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=root))
            try:
                make(hidden)
                shutil.rmtree(folder, ignore_errors=True)
                hidden.rename(folder)
            finally:
                shutil.rmtree(hidden, ignore_errors=True)
    except OSError as error:
        raise InputError(f"the cache {root} cannot be written: {error.strerror}; XDG_CACHE_HOME moves it") from error
    return folder
