"""open_clip, which is an extra: nothing but named CLIP models and text needs it."""

from __future__ import annotations

import importlib
from typing import Any

from ht_kernels.errors import InputError


def open_clip(what: str) -> Any:
    """The module, for ``what``, such as "backbone ViT-B-16".

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module("open_clip")
    except ImportError as error:
        raise InputError(f'{what} needs open_clip ({error}): pip install "ht-kernels[clip]"') from error
