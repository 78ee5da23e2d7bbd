"""The file results.json: what every one begins with, and how it is written."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from ht_kernels import environment
from ht_kernels.files import drawn, output_folder, read_object
from ht_kernels.outputs import BENCH

NAME = "results.json"


def facts() -> dict[str, Any]:
    """When and where a benchmark ran."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": environment.commit(),
        "environment": environment.describe(),
    }


def as_bytes(document: dict[str, Any]) -> bytes:
    """A document as the bytes of its file."""
    return (json.dumps(document, indent=2) + "\n").encode()


def earlier_files(directory: Path) -> list[str]:
    """Those of the files of a benchmark in a folder that an earlier one wrote."""
    known = {"form", "environment"} <= read_object(directory / NAME).keys()
    return [*([NAME] if known else []), *drawn(directory, BENCH, "bench")]


def write(document: dict[str, Any], directory: Path) -> Path:
    """Write results.json into ``directory``, complete or not at all, and return its path.

    Raises:
        InputError: the folder or the file cannot be written.
    """
    with output_folder(directory, BENCH) as folder:
        (folder / NAME).write_bytes(as_bytes(document))
    return directory / NAME
