"""Writing the results of a benchmark: figures in JSON, and a table in Markdown beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ht_kernels.environment import commit, describe
from ht_kernels.files import make_folder, write_whole


def write(path: Path, rows: Sequence[dict[str, Any]], table: Sequence[str], **facts: Any) -> None:
    """Write ``path`` (``*.json``) and a ``*.md`` file beside it. Each file appears complete or not at all.

    Args:
        path: the JSON file; its folder is made if missing.
        rows: the figures, as values that JSON can hold.
        table: the lines of the Markdown file.
        facts: further entries of the JSON document, in addition to the commit and the environment.

    Raises:
        InputError: a file cannot be written.
    """
    document = {"commit": commit(), **facts, "rows": rows, "environment": describe()}
    make_folder(path.parent)
    write_whole(path, json.dumps(document, indent=1).encode(), "the figures")
    write_whole(path.with_suffix(".md"), ("\n".join(table) + "\n").encode(), "the table")
