"""The folder of an evaluation: what an earlier one wrote into it, and what a new one may not replace."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ht_kernels import files
from ht_kernels.outputs import EVALUATION, FOLDS, evaluations


def earlier_files(output: Path) -> list[Path]:
    """The files that an earlier evaluation wrote into a folder, as its results.json says, by their paths in it.

    Older versions did not say it: then they are all of which an evaluation of these data sets consists.
    """
    results = files.read_object(output / "results.json")
    if "title" not in results or not {"summary", "datasets"} & results.keys():
        return []
    if "files" not in results:
        datasets = results.get("datasets")
        results["files"] = evaluations(datasets if isinstance(datasets, dict) else ())
    return [file for file in files.within(results["files"]) if file.name in EVALUATION and len(file.parts) <= 2]


def check_foreign(output: Path, datasets: Collection[str] = ()) -> None:
    """Refuse a folder with files that an evaluation would replace, and that no evaluation wrote.

    Args:
        output: the folder; it need not exist.
        datasets: the names of the data sets, where there are several.

    Raises:
        InputError: it is such a folder.
    """
    files.check_foreign(output, evaluations(datasets), earlier_files(output))


def check_foreign_folds(output: Path) -> None:
    """Refuse a folder with a table over folds, ``folds.csv`` and ``folds.md``, that no evaluation wrote.

    Raises:
        InputError: it is such a folder.
    """
    try:
        lines = (output / "folds.csv").read_bytes().splitlines()
    except OSError:
        lines = []
    ours = bool(lines) and lines[0].startswith(b"run,") and lines[-1].startswith(b"standard deviation,")
    files.check_foreign(output, FOLDS, FOLDS if ours else ())
