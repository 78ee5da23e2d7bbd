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
            f"{', '.join(SHIPPED)}"
        )
    return path
