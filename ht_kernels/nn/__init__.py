"""Modules: the adapter and the heads."""

from .adapter import HTAdapter

__all__ = ["HTAdapter"]
