"""The application: predictions of many files, written into a folder as overlays, masks and tables."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ht_kernels import environment
from ht_kernels.errors import InputError
from ht_kernels.files import csv_bytes, output_folder, utf8
from ht_kernels.media.opening import open_file
from ht_kernels.media.source import USUAL_FPS, Source
from ht_kernels.progress import Watch, unwatched, watched
from ht_kernels.video.dicom_seg import check_clip, write_segmentation
from ht_kernels.video.dicom_sr import Largest, write_report
from ht_kernels.video.measurement_tables import rows_of, write_tables
from ht_kernels.video.sinks import MaskSink, VideoSink

from .inputs import earlier_files
from .predictor import Predictor, is_clip
from .result import Prediction, place, save_into, save_probability


class _Wanted(NamedTuple):
    """What is written beside masks and overlays."""

    probability: bool
    measured: bool
    dicom_seg: bool
    ohif: bool
    dicom_sr: bool


class _Unusable(Exception):
    """An input of which there is no result."""


def predict_files(
    predictor: Predictor,
    files: Mapping[str, Path],
    output: str | Path,
    *,
    weights: str | None = None,
    probability: bool = False,
    measured: bool = False,
    dicom_seg: bool = False,
    ohif: bool = False,
    dicom_sr: bool = False,
    watch: Callable[[Path, Prediction], None] | None = None,
    progress: Watch = unwatched,
) -> dict[str, Any]:
    """Predict the images and clips in files, and write the results; returns the content of predictions.json.

    The folder gets ``overlays/NAME.png`` and for segmentation ``masks/NAME.png`` of an image, ``overlays/NAME.mp4`` and
    ``masks/NAME/00001.png`` and so on of a clip, and ``predictions.csv`` and ``predictions.json``, with a row for each
    image and frame as :meth:`Prediction.row` makes it. They appear together when all is done, or not at all. What an
    earlier call wrote there is replaced.

    A file that cannot be read, or only in part, or that the model fails on, has no results but a row with the state
    ``failed``; the reason is in predictions.json under ``failed``.

    Args:
        predictor: the model.
        files: the files by the names of their results, such as :func:`ht_kernels.prediction.inputs.find_files` gives.
        output: the folder, made where there is none.
        weights: what predictions.json calls the model's weights.
        probability: for segmentation, also write ``probabilities/NAME.npz`` as :meth:`Prediction.save` does.
        measured: for segmentation, also write ``measurements.csv`` and ``measurements.json``, with a row for each frame
            and class as :func:`ht_kernels.video.measurement_tables.rows_of` makes it, and draw diameters in overlays.
        dicom_seg: for segmentation, also write ``segmentations/NAME.dcm`` of each DICOM file. One that cannot have a
            DICOM Segmentation has no results.
        ohif: as :func:`ht_kernels.video.dicom_seg.write_segmentation` takes it.
        dicom_sr: also write ``reports/NAME.dcm`` of each DICOM file in which a class was found and measured in
            millimetres, as :func:`ht_kernels.video.dicom_sr.write_report` does; it refers to the Segmentation if that
            is written. ``measured`` must be true.
        watch: called with each file and prediction after it was written.
        progress: told how many of the files are done, and of the frames of a clip that says how many it has.

    Raises:
        InputError: there is no result of any file, the output cannot be written or holds files of these names that no
            prediction wrote, or ``probability``, ``measured`` or ``dicom_seg`` was asked for and the model classifies,
            or ``dicom_sr`` without ``measured``.
    """
    if dicom_seg and predictor.task != "segmentation":
        raise InputError("a DICOM Segmentation holds masks, and this model classifies whole images")
    if probability and predictor.task != "segmentation":
        raise InputError(
            "the model classifies whole images, so there are no probabilities of pixels to write: predictions.csv has "
            "the probability of every class"
        )
    if measured and predictor.task != "segmentation":
        raise InputError(
            "the model classifies whole images, so there is nothing to measure: leave the measurements out"
        )
    if dicom_sr and not measured:
        raise InputError("a DICOM report has measurements: pass measured, too")
    wanted = _Wanted(probability, measured, dicom_seg, ohif, dicom_sr)
    rows: list[dict[str, Any]] = []
    sizes: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    warnings: list[str] = []
    with output_folder(output, earlier_files(Path(output)), strict=True) as folder:
        for name, path in watched(list(files.items()), "predicting files", progress):
            try:
                source = _open(path)
                if dicom_seg and source.kind == "dicom":
                    _check_segmentation(path)
                of_file = _predict_file(folder, name, predictor, source, wanted, watch, progress)
                rows += of_file[0]
                sizes += of_file[1]
                warnings += source.warnings
            except _Unusable as error:
                _remove_clip(folder, name)
                failed[str(path)] = str(error)
                rows.append({"file": str(path), "frame": None, "state": "failed"})
                sizes += rows_of(None, predictor.classes, file=str(path), state="failed", why=str(error))
        if len(failed) == len(files):
            raise InputError(f"there is no result, for no input can be used; {'; '.join(failed.values())}")
        if measured:
            write_tables(folder, sizes)
        report = _report(predictor, weights, rows, failed, warnings)
        report["files"] = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
        (folder / "predictions.csv").write_bytes(csv_bytes(rows))
        (folder / "predictions.json").write_bytes(utf8(json.dumps(report, indent=2) + "\n"))
    return report


def _remove_clip(folder: Path, name: str) -> None:
    """Remove what was written of a clip that cannot be read to its end."""
    (folder / "overlays" / f"{name}.mp4").unlink(missing_ok=True)
    for kind in ("masks", "probabilities"):
        shutil.rmtree(folder / kind / name, ignore_errors=True)


def _open(path: Path) -> Source:
    try:
        return open_file(path)
    except InputError as error:
        raise _Unusable(str(error)) from error


def _check_segmentation(path: Path) -> None:
    try:
        check_clip(path)
    except InputError as error:
        raise _Unusable(str(error)) from error


def _usable(path: Path, predictions: Iterator[Prediction]) -> Iterator[Prediction]:
    """Predictions of a file, with what is wrong with the file told from what is wrong with the output."""
    try:
        yield from predictions
    except InputError as error:
        words = str(error)
        raise _Unusable(words if str(path) in words else f"{path}: {words}") from error


def _predict_file(
    folder: Path,
    name: str,
    predictor: Predictor,
    source: Source,
    wanted: _Wanted,
    watch: Callable[[Path, Prediction], None] | None,
    progress: Watch,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Write the results of a file into a folder; returns its rows, and those of its measurements."""
    rows: list[dict[str, Any]] = []
    sizes: list[dict[str, Any]] = []
    segmented: list[NDArray[np.uint8] | None] = []
    largest = Largest()
    predictions = _usable(source.path, predictor.frames(source))
    clip = is_clip(source)
    video = VideoSink(place(folder, "overlays", f"{name}.mp4"), source.fps or USUAL_FPS) if clip else None
    masks = MaskSink(place(folder, "masks", name)) if clip and predictor.task == "segmentation" else None
    try:
        for prediction in predictions:
            if video is None:
                prediction = replace(prediction, index=None)
                save_into(folder, name, prediction, wanted.probability, wanted.measured)
            else:
                video.write(prediction.overlay(wanted.measured), prediction.seconds)
                if masks is not None and prediction.mask is not None:
                    masks.write(prediction.mask, prediction.index or 0)
                if wanted.probability:
                    save_probability(folder, f"{name}/{(prediction.index or 0) + 1:05}", prediction)
            rows.append(prediction.row())
            if wanted.measured:
                sizes += _sizes(prediction)
            if wanted.dicom_seg:
                segmented.append(prediction.mask)
            if wanted.dicom_sr and source.kind == "dicom":
                largest.add(prediction.index or 0, prediction.mask, prediction.measurements)
            if watch is not None:
                watch(source.path, prediction)
            if clip and source.frame_count is not None:
                progress(f"predicting frames of {source.path.name}", len(rows), source.frame_count)
    finally:
        if video is not None:
            video.close()
    segmentation = None
    if wanted.dicom_seg and source.kind == "dicom":
        segmentation = place(folder, "segmentations", f"{name}.dcm")
        write_segmentation(
            segmentation, source.path, segmented, predictor.classes, spacing=predictor.spacing, ohif=wanted.ohif
        )
    if found := largest.found():
        report = place(folder, "reports", f"{name}.dcm")
        write_report(report, source.path, found, len(predictor.classes), segmentation)
    return rows, sizes


def _sizes(prediction: Prediction) -> Iterator[dict[str, Any]]:
    """The rows of the measurements of an image or frame."""
    clip = prediction.index is not None
    return rows_of(
        prediction.measurements,
        prediction.classes,
        file=None if prediction.file is None else str(prediction.file),
        frame=(prediction.index or 0) + 1 if clip else None,
        seconds=prediction.seconds if clip else None,
        state=prediction.state,
        why=prediction.note,
    )


def _report(
    predictor: Predictor,
    weights: str | None,
    rows: list[dict[str, Any]],
    failed: dict[str, str],
    warnings: list[str],
) -> dict[str, Any]:
    facts = environment.describe()
    return {
        "weights": weights,
        "model": predictor.describe(),
        "images": [{name: _plain(value) for name, value in row.items()} for row in rows],
        "failed": failed,
        "warnings": warnings,
        "versions": {
            "ht_kernels": facts["ht_kernels"],
            "python": facts["python"],
            **{name: found for name, found in facts["packages"].items() if found},
        },
    }


def _plain(value: Any) -> Any:
    """None for a number that is not finite, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
