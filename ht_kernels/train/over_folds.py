"""Results of several evaluations in one table: their mean and standard deviation, such as over folds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ht_kernels.errors import InputError, reason
from ht_kernels.files import read_whole

from .evaluate import score_name


def summarize_folds(folders: Sequence[Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """The scores of each evaluation and over all, and the lines of a Markdown table of them.

    Args:
        folders: what ``ht-kernels evaluate`` wrote, each with a ``results.json`` of one data set.

    Returns:
        A row for each folder, with ``run`` and its scores, then the rows ``mean`` and ``standard deviation`` over the
        folders, the latter with N - 1; and the lines. A score that is not finite in any folder is left out.

    Raises:
        InputError: there are less than two folders, one has no results, or they are of different kinds.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError("--folds names a folder twice; expected the evaluation of each fold once")
    if len(folders) < 2:
        raise InputError(f"--folds names {len(folders)} folder, expected 2 or more that ht-kernels evaluate wrote")
    rows = [{"run": str(folder), **_scores(folder)} for folder in folders]
    names = [name for name in rows[0] if name != "run" and all(_finite(row.get(name)) for row in rows)]
    if not names:
        raise InputError(f"{folders[0]} and the other results have no score in common; expected those of one task")
    scores = {name: [float(row[name]) for row in rows] for name in names}
    rows = [{"run": row["run"], **{name: row[name] for name in names}} for row in rows]
    for row, over in (("mean", statistics.fmean), ("standard deviation", statistics.stdev)):
        rows.append({"run": row, **{name: over(each) for name, each in scores.items()}})
    table = [f"| | {' | '.join(map(score_name, names))} |", f"|---|{'--:|' * len(names)}"]
    table += [f"| {row['run']} | {' | '.join(f'{row[name]:.4f}' for name in names)} |" for row in rows]
    return rows, table


def _scores(folder: Path) -> dict[str, Any]:
    path = folder / "results.json"
    try:
        summary = json.loads(read_whole(path, "the results"))["summary"]
        return {name: value for name, value in summary.items() if not name.endswith("_std")}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} has no results of one data set ({reason(error)}); expected what ht-kernels evaluate writes"
        ) from error


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
