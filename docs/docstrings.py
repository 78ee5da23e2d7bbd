"""Docstrings as Markdown: what ``mkdocs.yml`` names as an extension of griffe, which reads them.

They are written for people who read the source: ``:func:`name``` refers to something, and ``::`` opens a block of code.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Docstring, Extension

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`~?([\w.]+)`")


class References(Extension):
    """Turns references into links where the API pages have what they name."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Rewrite the docstring of an object that was read."""
        if obj.docstring is not None:
            obj.docstring = _markdown(obj, obj.docstring)


def _markdown(obj: Any, docstring: Docstring) -> Docstring:
    def link(role: re.Match[str]) -> str:
        name = role[1].lstrip(".")
        target = name if name.startswith("ht_kernels") else _resolve(obj, name)
        shown = name.rpartition(".")[2] if name.startswith("ht_kernels") else name
        # An optional reference stays plain code where no page has its target.
        return f'<autoref optional identifier="{target}"><code>{shown}</code></autoref>'

    docstring.value = re.sub(r"::$", ":", _ROLE.sub(link, docstring.value), flags=re.MULTILINE)
    return docstring


def _resolve(obj: Any, name: str) -> str:
    try:
        return str(obj.resolve(name))
    except Exception:  # griffe raises several kinds where a name is not in scope
        return name
