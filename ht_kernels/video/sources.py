"""What frames come from: a file, a camera or an address."""

from __future__ import annotations

from pathlib import Path

from ht_kernels.errors import InputError
from ht_kernels.media.opening import open_file
from ht_kernels.media.source import Source

from .live import LiveSource, open_live


def open_source(path: str | Path) -> Source | LiveSource:
    """Open a DICOM ultrasound file, a video file, a folder of images, one image, a camera or an address.

    A camera is a V4L2 device such as ``/dev/video0``; an address is what has ``://`` in it, such as ``rtsp://...``, or
    ``igtl://HOST:PORT/DEVICE`` for images that a program sends by OpenIGTLink.

    Raises:
        InputError: as :func:`ht_kernels.media.opening.open_file`, the name is empty, or the camera or address cannot be
            opened.
    """
    if not str(path):
        raise InputError("the name of the input is empty: name a file, a folder, a camera or an address")
    if "://" in str(path) or Path(path).is_char_device():
        return open_live(str(path))
    return open_file(path)
