"""The report of a run: a table, results.json and chart.png."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ht_kernels.files import output_folder
from ht_kernels.outputs import BENCH

from . import chart
from .cases import IMPLEMENTATIONS, LABELS
from .document import as_bytes, facts
from .runner import Limits, Result
from .text import aligned, milliseconds, times


def table(results: list[Result]) -> list[str]:
    """The results as aligned lines of text, with the median of each implementation in milliseconds per call."""
    baselines = [name for name in IMPLEMENTATIONS if name != "ours"]
    header = ["", *[LABELS[name] for name in IMPLEMENTATIONS], *[f"over {name}" for name in baselines], "floor"]
    rows = [header]
    for result in results:
        medians = [milliseconds(t.median) if (t := result.timings.get(n)) else "-" for n in IMPLEMENTATIONS]
        ratios = [times(ratio) if (ratio := result.ratio(name)) else "-" for name in baselines]
        floor = milliseconds(max(result.floors.values())) if result.floors else "-"
        rows.append([str(result.case), *medians, *ratios, floor])
    return aligned(rows)


def write(results: list[Result], limits: Limits, directory: Path) -> list[Path]:
    """Write results.json and chart.png into ``directory``. They appear together or not at all.

    Raises:
        InputError: the folder or a file cannot be written.
    """
    document: dict[str, Any] = {
        "form": "comparison",
        **facts(),
        "unit": "seconds per call",
        "limits": {"copy_bytes_per_second": limits.bandwidth, "float32_operations_per_second": limits.flops},
        "results": [_plain(result) for result in results],
    }
    files = {
        "results.json": as_bytes(document),
        "chart.png": chart.draw(results, document["environment"]),
    }
    with output_folder(directory, BENCH) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
    return [directory / name for name in files]


def _plain(result: Result) -> dict[str, Any]:
    return {
        "part": result.case.part,
        "group": result.case.group,
        "batch": result.case.batch,
        "floors": result.floors,
        "implementations": {
            name: {**asdict(timing), "difference": result.differences[name]} for name, timing in result.timings.items()
        },
    }
