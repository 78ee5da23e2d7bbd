"""Deployment: the folded model."""

from .folded import FoldedHTCLIP, fold

__all__ = ["FoldedHTCLIP", "fold"]
