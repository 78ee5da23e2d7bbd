"""A cache on disk for results that take long to make: one folder per key, safe to share between processes."""

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
from ht_kernels.files import why


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/ht_kernels``, or ``~/.cache/ht_kernels``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ht_kernels"


def cached(
    key: Mapping[str, Any], make: Callable[[Path], None], good: Callable[[Path], bool], root: Path | None = None
) -> Path:
    """Return the folder for ``key``. ``make`` fills it first, unless it exists and ``good`` accepts it.

    If several processes ask at once, one makes the folder and the others wait. A folder appears complete or not at all.

    Args:
        key: everything that the content depends on, as values that JSON can hold.
        make: fills the empty folder that it is given.
        good: says whether an existing folder can be used.
        root: the parent of all folders; default :func:`cache_folder`.

    Raises:
        InputError: the cache cannot be written.
    """
    root = root or cache_folder()
    folder = root / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with folder.with_suffix(".lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, also by a crash
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
        raise InputError(f"the cache {root} cannot be written: {why(error)}; XDG_CACHE_HOME moves it") from error
    return folder
