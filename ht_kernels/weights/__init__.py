"""Weights that come with the package; see README.md beside this file."""

from __future__ import annotations

import json
from pathlib import Path

from ht_kernels.errors import InputError, did_you_mean

KEY = "ht_kernels"
"""The key of our metadata in a safetensors file."""

_LARGEST_HEAD = 100_000_000  # as safetensors itself has it

BREAST = Path(__file__).with_name("breast.safetensors")
"""Lesion segmentation of breast ultrasound, trained on BUSI; docs/breast.md is its model card. Not a medical device."""

PHANTOM = Path(__file__).with_name("phantom.safetensors")
"""Lesion segmentation, trained on simulated phantoms only; not for patients."""

SHIPPED = {"breast": BREAST, "phantom": PHANTOM}
"""The files by the names that stand for them."""


def metadata_of(path: Path) -> dict[str, str] | None:
    """The metadata in the head of a safetensors file, read without torch; None of a file that has no such head."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            head = file.read(length) if length < _LARGEST_HEAD else b""
        content = json.loads(head) if head.startswith(b"{") else None
        return dict(content.get("__metadata__", {})) if isinstance(content, dict) else None
    except (OSError, ValueError, TypeError, RecursionError):
        return None  # reading the tensors says what is wrong


def is_ours(path: Path) -> bool:
    """Whether a checkpoint is in our format rather than a published one: a safetensors file."""
    try:
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError:
        return False  # reading the tensors says what is wrong


def task_of(path: Path) -> str | None:
    """The task that the head of a checkpoint in our format names; None where it names none. No tensor is read."""
    try:
        return str(json.loads((metadata_of(path) or {})[KEY])["config"]["task"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def locate(checkpoint: str | Path) -> Path:
    """Return the file of a checkpoint that is given as a path or as the name of weights that ship.

    A file that exists is meant by its path. Otherwise a word without a suffix is a name, and anything else is a path.

    Raises:
        InputError: no weights ship under the name, or it is that of a folder.
    """
    path = Path(checkpoint)
    if not path.is_file() and str(checkpoint) in SHIPPED:  # also where a folder has the name
        return SHIPPED[str(checkpoint)]
    if path.is_dir():
        trained = path / "best.safetensors"
        named = trained if trained.is_file() else "a file, such as the best.safetensors that ht-kernels train writes"
        raise InputError(f"{path} is a folder, expected a checkpoint: name {named}")
    if not path.is_file() and path.name == str(checkpoint) and not path.suffix:
        raise InputError(
            f"there is no file {path}, and no weights of this name come with the package: name a file, or one of "
            f"{', '.join(SHIPPED)}{did_you_mean(path.name, SHIPPED)}"
        )
    return path
