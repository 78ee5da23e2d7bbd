"""Opening files: the content of a file decides what it is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from ht_kernels.errors import InputError

from .dicom import open_dicom
from .dicom_file import is_dicom
from .frames import Frame
from .image import SUFFIXES, decode_image, is_image, open_image
from .source import Source
from .video import open_video

_OF_SYSTEMS = ("thumbs.db", "desktop.ini", "ehthumbs.db")


def is_hidden(name: str) -> bool:
    """Whether a file is one that systems add to folders: ``._*``, ``.DS_Store`` and what else begins with a dot."""
    return name.startswith(".") or name.casefold() in _OF_SYSTEMS


def open_file(path: str | Path) -> Source:
    """Open a DICOM ultrasound file, a video file, a folder of images, or one image.

    Raises:
        InputError: there is no such file, it is none of these, it is damaged, or the DICOM file is not ultrasound.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    kind = _kind(path)
    if kind == "dicom":
        return open_dicom(path)
    return open_image(path) if kind == "image" else open_video(path)


def read_image(path: Path) -> Image.Image:
    """The one picture in an image file or DICOM file, as ``L`` or ``RGB``.

    Raises:
        InputError: the file is missing or damaged, or has several pictures.
    """
    warnings: list[str] = []
    if _kind(path) == "dicom":
        source = open_dicom(path)
        frames, warnings = source.decode(), source.warnings
    else:
        frames = decode_image(path)
    _, frame = next(frames)
    if next(frames, None) is not None:
        raise InputError(f"{path} has several frames, expected one picture; save those that you want as images")
    if warnings:  # a picture that is not whole teaches the wrong thing
        raise InputError("; ".join(warnings))
    return Image.fromarray(frame)


def _kind(path: Path) -> str:
    if not path.exists():
        raise InputError(f"there is no file or folder {path}")
    if not path.is_file():
        raise InputError(f"{path} is neither a file nor a folder")
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise InputError(f"{path} is empty")
    if is_dicom(head):
        return "dicom"
    return "image" if is_image(path) else "video"


def _open_folder(path: Path) -> Source:
    files = sorted((p for p in path.iterdir() if _is_shown(p)), key=natural_order)
    if not files:
        below = _first_with_images(path)
        if below is not None:
            raise InputError(f"{path} has no images itself, but folders below it have: name one, such as {below}")
        raise InputError(f"{path} has no images; expected files that end in {', '.join(SUFFIXES)}")

    def decode() -> Iterator[tuple[None, Frame]]:
        for file in files:
            yield None, next(decode_image(file))[1]

    _, first = next(decode())
    size, names = (first.shape[0], first.shape[1]), tuple(file.name for file in files)
    return Source(path, "images", len(files), None, size, decode, names=names)


def _first_with_images(path: Path) -> Path | None:
    """The first folder below that has images itself; None where there is none."""
    for folder, below, names in os.walk(path):
        below[:] = sorted((name for name in below if not is_hidden(name)), key=lambda name: natural_order(Path(name)))
        if any(_is_shown(Path(folder, name)) for name in names):
            return Path(folder)
    return None


def _is_shown(path: Path) -> bool:
    """Whether a file in a folder is an image."""
    return path.suffix.lower() in SUFFIXES and not is_hidden(path.name) and path.is_file()


def natural_order(path: Path) -> list[tuple[int, int | str]]:
    """A sort key that puts frame2 before frame10."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]
