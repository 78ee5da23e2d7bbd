"""Segmentation of clips and live ultrasound: sources, the stream over them, overlay, sinks, and ``record`` for it all.

``stream`` runs a model over the frames of a source, ``recording`` writes what a stream gives into files. ``sources``
and ``live`` are where frames come from; ``overlay``, ``calipers``, ``sinks``, ``view``, ``measurement_tables``,
``dicom_seg`` and ``dicom_sr`` are where results go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ht_kernels.lazy import lazily

if TYPE_CHECKING:
    from ht_kernels.media.source import Source

    from .live import LiveSource
    from .recording import record
    from .sources import open_source
    from .stream import Shown, Stream

__all__ = ["LiveSource", "Shown", "Source", "Stream", "open_source", "record"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "LiveSource": ".live",
        "Shown": ".stream",
        "Source": "ht_kernels.media.source",
        "Stream": ".stream",
        "open_source": ".sources",
        "record": ".recording",
    },
)
