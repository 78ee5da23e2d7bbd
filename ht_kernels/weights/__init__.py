"""Weights that come with the package; see README.md beside this file."""

from __future__ import annotations

from pathlib import Path

from ht_kernels.errors import InputError

BREAST = Path(__file__).with_name("breast.safetensors")
"""Lesion segmentation of breast ultrasound, trained on BUSI; docs/breast.md is its model card. Not a medical device."""

PHANTOM = Path(__file__).with_name("phantom.safetensors")
"""Lesion segmentation, trained on simulated phantoms only; not for patients."""

SHIPPED = {"breast": BREAST, "phantom": PHANTOM}
"""The files by the names that stand for them."""


def locate(checkpoint: str | Path) -> Path:
    """Return the file of a checkpoint that is given as a path or as the name of weights that ship.

    A file that exists is meant by its path. Otherwise a word without a suffix is a name, and anything else is a path.

    Raises:
        InputError: no weights ship under the name.
    """
    path = Path(checkpoint)
    if path.is_file() or path.suffix or path.name != str(checkpoint):
        return path
    if path.name not in SHIPPED:
        raise InputError(
            f"there is no file {path}, and no weights of this name come with the package: name a file, or one of "
            f"{', '.join(SHIPPED)}"
        )
    return SHIPPED[path.name]
