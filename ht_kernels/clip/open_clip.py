"""Importing open_clip, an optional dependency that only CLIP models given by name, and text, need."""

from __future__ import annotations

import importlib
from typing import Any

from ht_kernels.errors import InputError


def open_clip(what: str) -> Any:
    """Import open_clip, and return the module. ``what`` names what needs it, such as "backbone ViT-B-16".

    Raises:
        InputError: open_clip is not installed.
    """
    try:
        return importlib.import_module("open_clip")
    except ImportError as error:
        raise InputError(f'{what} needs open_clip ({error}): pip install "ht-kernels[clip]"') from error
