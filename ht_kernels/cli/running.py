"""What commands share that run a model over frames: the options for it, and the model that they ask for."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ht_kernels.errors import InputError
from ht_kernels.packages import need_torch
from ht_kernels.weights import locate

from . import model_options, terminal

if TYPE_CHECKING:
    from ht_kernels.deploy import FoldedHTCLIP, Session
    from ht_kernels.media.frames import Box
    from ht_kernels.media.scale import Spacing


def add_arguments(how: argparse._ActionsContainer, runs: argparse._ActionsContainer) -> None:
    """Add ``--crop`` and ``--unfamiliar``, and ``--runtime``, ``--device`` and ``--precision``, to two groups."""
    how.add_argument(
        "--crop", metavar="auto|X,Y,W,H", help="what the model sees: the scan without text around it, or a box"
    )
    how.add_argument(
        "--unfamiliar",
        choices=("withhold", "outline"),
        default="withhold",
        help="what is drawn over frames that are unlike the training images, if the model can tell: nothing, or a red "
        "outline (default: %(default)s)",
    )
    runs.add_argument(
        "--runtime",
        choices=("tensorrt", "cuda_graph", "openvino", "onnxruntime", "cpu"),
        help="what runs the model (default: the fastest that is here; for a checkpoint cuda_graph where there is a "
        "GPU, else openvino, onnxruntime or cpu)",
    )
    runs.add_argument(
        "--device",
        choices=("CPU", "GPU", "NPU"),
        help="with --runtime openvino: where it runs, GPU being Intel's (default: CPU)",
    )
    runs.add_argument(
        "--precision",
        choices=("fp32", "fp16", "bf16"),
        default="fp32",
        help="of tokens and matrices with --runtime cuda_graph, of matrix products with openvino, where the device "
        "computes in it (default: %(default)s)",
    )


def check(args: argparse.Namespace) -> None:
    """Refuse options of the model that do not go together, a checkpoint that is missing, and one without torch.

    Raises:
        InputError: they are such.
    """
    from ht_kernels.deploy.places import is_exported

    model_options.check_image_size(args)
    path = args.checkpoint and locate(args.checkpoint)
    exported = path is not None and is_exported(path)
    if path is not None and not exported:
        model_options.check_checkpoint(args.checkpoint)
    if not exported:
        need_torch("an untrained model" if path is None else f"the checkpoint {path}")
    runtime = named_runtime(args)
    if args.precision != "fp32" and (exported or runtime not in ("cuda_graph", "openvino", None)):
        raise InputError(
            f"--precision {args.precision} is for a checkpoint with --runtime cuda_graph or openvino; an exported file "
            "has its own precision, and the other runtimes compute fp32"
        )
    if args.device is not None and runtime != "openvino":
        raise InputError(f"--device {args.device} goes with --runtime openvino, got {runtime}")
    if exported and model_options.given(args, *model_options.TOWER):
        raise InputError(f"{path} has its tower in it: leave --backbone, --pretrained and --image-size out")


def open_model(args: argparse.Namespace) -> tuple[FoldedHTCLIP | Session, bool]:
    """The model or session that runs over frames, and whether it was trained. An exported file needs no torch.

    A model that cannot tell unfamiliar frames, of which an outline was asked, is warned of.

    Raises:
        InputError: a file or an option does not fit.
        BackendError: the runtime asked for does not run here.
    """
    from ht_kernels.distance_scale import NOT_CALIBRATED

    model, trained = _open(args)
    if args.unfamiliar == "outline" and model.familiarity is None:
        terminal.warn([f"--unfamiliar outline changes nothing: {NOT_CALIBRATED}"])
    return model, trained


def _open(args: argparse.Namespace) -> tuple[FoldedHTCLIP | Session, bool]:
    """What :func:`open_model` returns."""
    from ht_kernels.deploy.places import is_exported
    from ht_kernels.deploy.session import Session

    runtime = named_runtime(args)
    path = args.checkpoint and locate(args.checkpoint)
    if path is not None and is_exported(path):
        return Session.open(path, runtime=runtime, device=args.device, progress=_show), True
    return _open_checkpoint(args, runtime)


def named_runtime(args: argparse.Namespace) -> str | None:
    """The runtime that the options name: a device is one of OpenVINO."""
    runtime: str | None = args.runtime
    return "openvino" if runtime is None and args.device is not None else runtime


def _open_checkpoint(args: argparse.Namespace, runtime: str | None) -> tuple[FoldedHTCLIP | Session, bool]:
    """What :func:`open_model` returns, for a checkpoint or an untrained model."""
    import torch

    import ht_kernels as ht
    from ht_kernels.deploy import Session
    from ht_kernels.deploy.fastest import default_runtime, fastest
    from ht_kernels.deploy.gpu import gpu_target
    from ht_kernels.deploy.openvino_runtime import check_device

    if runtime is None:
        runtime = default_runtime(args.precision)
    if runtime == "cuda_graph":
        gpu_target()  # raises where there is no GPU, before a model is loaded for nothing
    if runtime == "openvino":
        check_device(args.device or "CPU", args.precision)
    model, trained = model_options.load_model(args)
    if runtime == "cuda_graph":
        dtype = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}[args.precision]
        return ht.fold(model.cuda(), dtype), trained
    if runtime is None:
        return fastest(model), trained
    folded = ht.fold(model)
    if runtime == "cpu":
        return folded, trained
    output = "grid" if model.config.task == "segmentation" else None
    if runtime == "openvino":
        return Session.open(folded, device=args.device, precision=args.precision, output=output), trained
    return Session.open(folded, runtime=runtime, output=output, progress=_show), trained


def _show(phase: str) -> None:
    print(f"building an engine: {phase}", file=sys.stderr, flush=True)


def add_measure(to: argparse._ActionsContainer, how: argparse._ActionsContainer) -> None:
    """Add ``--measure`` and ``--spacing`` to the groups of outputs and of frames."""
    to.add_argument(
        "--measure",
        action="store_true",
        help="for segmentation: also write areas, diameters and places of each class as tables, and draw diameters",
    )
    how.add_argument(
        "--spacing",
        metavar="MM|X,Y",
        help="the side of a pixel in millimetres, or its width and height, for sizes (default: as a DICOM file says)",
    )


def add_dicom_sr(to: argparse._ActionsContainer) -> None:
    """Add ``--dicom-sr`` to the group of outputs."""
    to.add_argument(
        "--dicom-sr",
        action="store_true",
        help="for DICOM files: also write the measurements of each class, where it is largest, as a DICOM structured "
        "report; --measure is implied",
    )


def check_dicom_sr(path: Path, spacing: Spacing | None) -> None:
    """Refuse a DICOM file of whose pixels nothing says the size, or that cannot have a report.

    Raises:
        InputError: it is such a file.
    """
    from ht_kernels.media.opening import open_file
    from ht_kernels.media.scale import Scale
    from ht_kernels.video.dicom_sr import check_file

    source = open_file(path)
    check_file(source.path, source.scales if spacing is None else (Scale(None, spacing),))


def read_spacing(text: str | None) -> Spacing | None:
    """The spacing ``MM`` or ``X,Y``, or None where none is given.

    Raises:
        InputError: it is neither.
    """
    from ht_kernels.media.scale import LARGEST, SMALLEST, as_spacing

    if text is None:
        return None
    try:
        sides = [float(part) for part in text.split(",")]
        return as_spacing(sides[0] if len(sides) == 1 else sides)
    except (ValueError, InputError):
        raise InputError(
            f"--spacing is {text!r}, expected the side of a pixel in millimetres, such as 0.1, or its width and "
            f"height, such as 0.1,0.08, each from {SMALLEST:g} to {LARGEST:g}"
        ) from None


def read_crop(text: str | None) -> Box | Literal["auto"] | None:
    """``auto`` or the box ``X,Y,W,H``, or None where no crop is asked for.

    Raises:
        InputError: it is neither.
    """
    from ht_kernels.media.frames import Box

    if text is None:
        return None
    if text == "auto":
        return "auto"
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        raise InputError(f"--crop is {text!r}, expected auto or four numbers X,Y,W,H in pixels")
    return Box(*map(int, parts))
