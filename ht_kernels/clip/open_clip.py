"""Importing open_clip, an optional dependency that only CLIP models given by name, and text, need."""

from __future__ import annotations

from typing import Any

from ht_kernels.packages import import_package


def open_clip(what: str) -> Any:
    """Import open_clip, and return the module. ``what`` names what needs it, such as "backbone ViT-B-16".

    Raises:
        InputError: open_clip is not installed or cannot be imported.
    """
    return import_package("open_clip", f"{what} needs open_clip", '"ht-kernels[clip]"')
