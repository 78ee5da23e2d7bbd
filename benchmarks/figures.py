"""What a benchmark measured: figures in JSON, and a table in Markdown beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ht_kernels.environment import commit, describe
from ht_kernels.files import make_folder, write_whole


def write(path: Path, rows: Sequence[dict[str, Any]], table: Sequence[str], **facts: Any) -> None:
    """Write ``path`` (``*.json``) and ``*.md`` beside it, each whole.

    Args:
        path: its folder is made where there is none.
        rows: figures, as JSON can hold them.
        table: lines of Markdown.
        facts: what else the document says, beside the commit and the environment.

    Raises:
        InputError: a file cannot be written.
    """
    document = {"commit": commit(), **facts, "rows": rows, "environment": describe()}
    make_folder(path.parent)
    write_whole(path, json.dumps(document, indent=1).encode(), "the figures")
    write_whole(path.with_suffix(".md"), ("\n".join(table) + "\n").encode(), "the table")
