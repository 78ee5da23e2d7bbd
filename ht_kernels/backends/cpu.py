"""The compiled CPU backend: C++ kernels behind ``ht_kernels._C``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import Case


def can_run(case: Case) -> str | None:
    """None when this backend can run ``case``, else the reason."""
    return "the compiled core is not built yet"
