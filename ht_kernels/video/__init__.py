"""Segmentation of clips and live ultrasound: sources, stages, overlay and sinks."""

from .live import LiveSource
from .pipeline import Pipeline, Result
from .sources import Source, open_source
from .stream import Shown, Stream

__all__ = ["LiveSource", "Pipeline", "Result", "Shown", "Source", "Stream", "open_source"]
