"""The folder of an evaluation: what an earlier one wrote into it, and what a new one may not replace."""

from __future__ import annotations

from collections.abc import Iterable
from glob import escape
from pathlib import Path

from ht_kernels.errors import InputError
from ht_kernels.files import read_object, written
from ht_kernels.outputs import EVALUATION, FOLDS, evaluations


def earlier_files(output: Path) -> list[str]:
    """The files that an earlier evaluation wrote into a folder, as its results.json says; paths within the folder.

    Older versions did not say it: then they are all of which an evaluation of these data sets consists.
    """
    results = read_object(output / "results.json")
    if "title" not in results or not {"summary", "datasets"} & results.keys():
        return []
    files = results.get("files")
    if isinstance(files, list):
        return [file for file in files if isinstance(file, str) and _is_result(Path(file))]
    datasets = results.get("datasets")
    names = [name for name in datasets if Path(name).name == name] if isinstance(datasets, dict) else []
    patterns = [*EVALUATION, *(f"{escape(name)}/{file}" for name in names for file in EVALUATION)]
    return [str(path.relative_to(output)) for path in written(output, patterns)]


def _is_result(file: Path) -> bool:
    """Whether a path is that of a result in the folder, or in the folder of a data set in it."""
    folder = file.parent.name
    return file.name in EVALUATION and folder != ".." and file == Path(folder) / file.name


def check_foreign(output: Path, datasets: Iterable[str] = ()) -> None:
    """Refuse a folder with files that an evaluation would replace, and that no evaluation wrote.

    Args:
        output: the folder; it need not exist.
        datasets: the names of the data sets, where there are several.

    Raises:
        InputError: it is such a folder.
    """
    earlier = {output / file for file in earlier_files(output)}
    for path in written(output, evaluations(list(datasets))):
        if path not in earlier:
            raise InputError(_refusal(path))


def check_foreign_folds(output: Path) -> None:
    """Refuse a folder with a table over folds, ``folds.csv`` and ``folds.md``, that no evaluation wrote.

    Raises:
        InputError: it is such a folder.
    """
    there = written(output, FOLDS)
    try:
        lines = (output / "folds.csv").read_bytes().splitlines()
    except OSError:
        lines = []
    if there and not (lines and lines[0].startswith(b"run,") and lines[-1].startswith(b"standard deviation,")):
        raise InputError(_refusal(there[0]))


def _refusal(path: Path) -> str:
    return f"{path} is there already, and no evaluation wrote it: move it, or name another output"
