"""Segmentation of clips, frame by frame: sources, preprocessing, the pipeline, overlay and sinks."""

from .pipeline import Pipeline, Result
from .sources import Source, open_source

__all__ = ["Pipeline", "Result", "Source", "open_source"]
