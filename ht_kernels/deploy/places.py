"""Where an exported file lies and what lies beside it: its weights, its manifest and the gate's report. No torch."""

from __future__ import annotations

import re
from pathlib import Path

from ht_kernels.errors import InputError
from ht_kernels.files import read_object


def manifest_path(path: Path) -> Path:
    """The path of a file's manifest: ``model.json`` for ``model.onnx``, ``model.engine.json`` for ``model.engine``."""
    return _stem(path).with_name(f"{_stem(path).name}.json")


def is_exported(path: Path) -> bool:
    """Whether a file is an exported model rather than a checkpoint. Only names are looked at, no file is read."""
    return path.suffix in (".onnx", ".xml", ".engine") or (path.name != "" and manifest_path(path).is_file())


def described_files(path: Path) -> list[Path]:
    """The files that the manifest of ``path`` describes: the file itself, and the weights of an IR, ``NAME.bin``."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def report_path(path: Path) -> Path:
    """The path of the gate's report on a file: ``model.report.json`` or ``model.engine.report.json``."""
    return _stem(path).with_name(f"{_stem(path).name}.report.json")


def failed_report_path(path: Path) -> Path:
    """The path of the gate's report on a file that was not written: ``model.report.failed.json``.

    It is another than :func:`report_path`, for an earlier export of the same name may be there, with its report.
    """
    return report_path(path).with_suffix(".failed.json")


def settings_path(path: Path) -> Path:
    """The path of the options that a file was exported with: ``model.settings.yaml``."""
    return _stem(path).with_name(f"{_stem(path).name}.settings.yaml")


def check_place(path: Path) -> None:
    """Refuse to write an exported file where it, its manifest or its report would replace what no export of it wrote.

    Raises:
        InputError: it would.
    """
    manifest = manifest_path(path)
    if manifest.exists() and read_object(manifest).get("file") != path.name:
        raise InputError(
            f"{manifest} is there already and is not the manifest of an earlier {path.name}, and the export would "
            "replace it: name another output, or move that file away"
        )
    for part in described_files(path):
        if part.exists() and not manifest.exists():
            raise InputError(
                f"{part} is there already without a manifest {manifest.name}, so no export wrote it, and the export "
                "would replace it: name another output, or move that file away"
            )
    check_report_place(path)


def check_report_place(path: Path) -> None:
    """Refuse to write the gate's report on a file where it would replace what is no such report.

    Raises:
        InputError: it would.
    """
    for report in (report_path(path), failed_report_path(path)):
        if report.exists() and "thresholds" not in read_object(report):
            raise InputError(
                f"{report} is there already and is not the report of an export, which would replace it: name another "
                "output, or move that file away"
            )


def check_folder(folder: Path) -> None:
    """Refuse a folder to write that exists, or whose name cannot be a model's.

    Raises:
        InputError: it is such a folder.
    """
    if folder.exists():
        raise InputError(f"the output {folder} exists: name a new folder")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", folder.name):
        raise InputError(
            f"the folder's name {folder.name!r} becomes the model's: use letters, digits, '.', '_' and '-'"
        )


def _stem(path: Path) -> Path:
    return path.with_suffix("") if path.suffix == ".onnx" else path
