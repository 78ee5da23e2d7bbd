"""``ht-kernels predict``: masks or labels of images, DICOM files and videos, as many as there are."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ht_kernels.errors import InputError
from ht_kernels.outputs import SETTINGS
from ht_kernels.weights import locate
from ht_kernels.words import counted

from . import archiving, config, model_options, outputs, running, terminal

if TYPE_CHECKING:
    from ht_kernels.prediction import Prediction

HELP = "segment or classify images, DICOM files and videos: masks, overlays and tables of areas or probabilities"
EXAMPLE = "ht-kernels predict images --weights breast --output predictions"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    came = parser.add_argument_group("inputs")
    to = parser.add_argument_group("outputs")
    model = parser.add_argument_group("model")
    came.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="an image, a DICOM file, a video, or a folder of these"
    )
    to.add_argument("--output", type=Path, required=True, metavar="DIR", help="where results go")
    outputs.add_overwrite(to)
    to.add_argument(
        "--probabilities",
        action="store_true",
        help="for segmentation: also write the probability of each class and pixel, as NumPy files",
    )
    archiving.add_arguments(to)
    model.add_argument(
        "--weights",
        dest="checkpoint",
        type=Path,
        required=True,
        metavar="FILE",
        help=f"{model_options.CHECKPOINT}; or a file of ht-kernels export",
    )
    model_options.add_tower_arguments(model)
    runs = parser.add_argument_group("runtime")
    how = parser.add_argument_group("frames and masks")
    running.add_measure(to, how)
    running.add_dicom_sr(to)
    running.add_arguments(how, runs)
    runs.add_argument(
        "--compile",
        action="store_true",
        help="of a checkpoint on an NVIDIA GPU: have torch.compile compile the model first, which takes a minute or "
        "more and pays for many files",
    )


def run(args: argparse.Namespace) -> int:
    from ht_kernels.prediction.inputs import check_names, check_output, dicom_files, find_files

    crop, spacing = running.read_crop(args.crop), running.read_spacing(args.spacing)
    running.check(args)
    if args.compile:
        _check_compile(args)
    archives = archiving.named(args)
    check_output(args.output, args.overwrite)
    config.check_foreign(args, args.output / SETTINGS)
    files = find_files(args.files, args.output)
    check_names(args.output, files)
    measured = args.measure or args.dicom_sr
    if args.dicom_seg:
        dicom_files("--dicom-seg", files.values())
    if args.dicom_sr:
        for path in dicom_files("--dicom-sr", files.values()):
            running.check_dicom_sr(path, spacing)
    archiving.check(archives, args)
    from ht_kernels.prediction import Predictor
    from ht_kernels.prediction.writing import predict_files

    with terminal.interruptible(), terminal.track() as progress:
        model, _ = running.open_model(args)
        if args.compile:
            print("compiling the model: this takes a minute or more", file=sys.stderr, flush=True)
        predictor = Predictor(model, crop=crop, unfamiliar=args.unfamiliar, compiled=args.compile, spacing=spacing)
        report = predict_files(
            predictor,
            files,
            args.output,
            weights=str(args.checkpoint),
            probability=args.probabilities,
            measured=measured,
            dicom_seg=args.dicom_seg,
            ohif=args.ohif,
            dicom_sr=args.dicom_sr,
            watch=_say,
            progress=progress,
        )
    config.write(args, args.output / SETTINGS)
    terminal.warn(report["warnings"])
    for line in _clips(report["images"]):
        print(line)
    states = Counter(row["state"] for row in report["images"] if row["state"] != "failed")
    found = ", ".join(f"{counted(count, 'frame')} {state}" for state, count in states.items())
    print(f"{len(files) - len(report['failed'])} of {len(files)} inputs have a result: {found}")
    written = "masks/, " if predictor.task == "segmentation" else ""
    written += "segmentations/, " if args.dicom_seg else ""
    written += "measurements.csv, measurements.json, " if measured else ""
    written += "reports/, " if any(name.startswith("reports/") for name in report["files"]) else ""
    print(f"wrote {written}overlays/, predictions.csv and predictions.json to {args.output}")
    for reason in report["failed"].values():
        print(f"no result: {reason}", file=sys.stderr)
    archiving.store(archives, [args.output / name for name in report["files"]])
    if report["failed"]:
        raise InputError(
            f"{len(report['failed'])} of {len(files)} inputs have no result: {', '.join(report['failed'])}; the others "
            f"are in {args.output}"
        )
    return 0


def _check_compile(args: argparse.Namespace) -> None:
    """Refuse ``--compile`` where no CUDA graph would run the model, and ask for that runtime by name.

    Raises:
        InputError: the model is an exported file, another runtime was named, or there is no GPU.
    """
    from ht_kernels.deploy.gpu import capability
    from ht_kernels.deploy.places import is_exported

    if is_exported(locate(args.checkpoint)):
        raise InputError(f"--compile needs a checkpoint, and {args.checkpoint} is an exported file: leave it out")
    runtime = running.named_runtime(args)
    if runtime not in (None, "cuda_graph"):
        raise InputError(f"--compile goes with --runtime cuda_graph, got {runtime}")
    if capability() is None:
        raise InputError("--compile needs an NVIDIA GPU, and there is none that can be used: leave it out")
    args.runtime = "cuda_graph"


def _clips(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each clip a line with its number of frames and of each of their states."""
    clips: dict[str, Counter[str]] = {}
    for row in rows:
        if row.get("frame") is not None:
            clips.setdefault(row["file"], Counter())[row["state"]] += 1
    return [
        f"{file}: {counted(states.total(), 'frame')}, {', '.join(f'{n} {state}' for state, n in states.items())}"
        for file, states in clips.items()
    ]


def _say(file: Path, prediction: Prediction) -> None:
    """Say what an image is; a clip has too many frames to say it of each, and :func:`_clips` counts them."""
    if prediction.index is not None:
        return
    if prediction.state == "unfamiliar":
        words = f"unfamiliar, {prediction.note}"
    elif prediction.label is not None:
        words = f"{prediction.label}, probability {prediction.confidence:.2f}"
    else:
        share = prediction.frame.shape[0] * prediction.frame.shape[1]
        parts = [f"{name} {pixels / share:.1%}" for name, pixels in (prediction.areas or {}).items() if pixels]
        words = f"{', '.join(parts) or 'nothing found'}"
        words += "" if prediction.confidence is None else f", confidence {prediction.confidence:.2f}"
    print(f"{file}: {words}", flush=True)
