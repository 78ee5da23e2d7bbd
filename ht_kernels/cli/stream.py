"""``ht-kernels stream``: a clip or a live source through the folded model, in real time."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ht_kernels.errors import InputError
from ht_kernels.files import claim
from ht_kernels.outputs import RECORDING, SETTINGS
from ht_kernels.weights import locate

from . import config, model_options, outputs, terminal

if TYPE_CHECKING:
    from ht_kernels.deploy import FoldedHTCLIP, Session
    from ht_kernels.media.frames import Box
    from ht_kernels.video.view import View

HELP = "segment a clip or a live source: overlay video, masks, live view and a report of latencies"
EXAMPLE = "ht-kernels stream exam.dcm --checkpoint breast --crop auto --output exam"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    came = parser.add_argument_group("inputs")
    to = parser.add_argument_group("outputs")
    how = parser.add_argument_group("frames and masks")
    runs = parser.add_argument_group("runtime")
    came.add_argument(
        "input",
        metavar="INPUT",
        help="a DICOM ultrasound clip, a video file, a folder of images, one image, a camera (/dev/video0) or an "
        "address (rtsp://...)",
    )
    to.add_argument(
        "--output", type=Path, metavar="DIR", help="where results go (default: INPUT's name with -segmented)"
    )
    outputs.add_overwrite(to)
    came.add_argument("--live", action="store_true", help="play a file at its own speed, as a scanner would")
    to.add_argument(
        "--view", metavar="[HOST:]PORT", help="show the overlay to browsers (without HOST: of this machine only)"
    )
    how.add_argument(
        "--stale",
        type=float,
        default=0.25,
        metavar="SECONDS",
        help="live: draw no mask older than this (default: %(default)s)",
    )
    how.add_argument(
        "--smooth", type=float, metavar="WEIGHT", help="average masks over time, the newest with this weight, up to 1"
    )
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
    to.add_argument("--dicom-seg", action="store_true", help="for a DICOM clip: also write a DICOM Segmentation")
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
    model_options.add_arguments(parser.add_argument_group("model"), exported=True)


def run(args: argparse.Namespace) -> int:
    crop = read_crop(args.crop)
    _check(args)
    from ht_kernels.media.frames import Box
    from ht_kernels.packages import import_package
    from ht_kernels.video import LiveSource, open_source
    from ht_kernels.video.recording import check_output

    source = open_source(args.input)
    name = "live" if isinstance(source, LiveSource) else source.path.stem or source.path.resolve().name
    output = args.output or Path(f"{name}-segmented")
    check_output(source, output)
    claim(output, (*RECORDING, SETTINGS), args.overwrite)
    if args.dicom_seg and (source.kind != "dicom" or args.live):
        raise InputError(f"--dicom-seg goes with a DICOM clip that is not played live, and {source.path} is another")
    if args.dicom_seg:
        from ht_kernels.video.dicom_seg import check_clip

        check_clip(Path(source.path))
    if isinstance(crop, Box):
        import numpy as np

        crop.of(np.empty(source.size, dtype=np.uint8))
    import_package("av", "the overlay video needs PyAV", "av")
    import_package("matplotlib", "the chart of latencies needs matplotlib", "matplotlib")
    from ht_kernels.video import Stream, record

    with terminal.interruptible(), ExitStack() as stack:
        view = open_view(args.view)
        if view is not None:
            stack.callback(view.close)
        model, trained = open_model(args)
        if not trained:
            model_options.warn_untrained()
        stream = Stream(
            model, live=args.live, stale=args.stale, smooth=args.smooth, crop=crop, unfamiliar=args.unfamiliar
        )
        if view is not None:
            print(f"live view: {view.address}", file=sys.stderr, flush=True)
        weights = str(args.checkpoint) if trained else "untrained"
        with terminal.on_interrupt(stream.stop), terminal.progress(source.frame_count) as watch:
            report = record(source, stream, output, weights=weights, view=view, dicom_seg=args.dicom_seg, watch=watch)
    config.write(args, output / SETTINGS)
    terminal.warn(report["input"]["warnings"])
    print("\n".join(terminal.summary(report)))
    print(f"wrote overlay.mp4, masks/, latency.png and report.json to {output}")
    if report["interrupted"] and not isinstance(source, LiveSource):
        raise KeyboardInterrupt
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse options that are out of range or do not go together, and a checkpoint that is missing, before the work."""
    from ht_kernels.deploy.places import is_exported
    from ht_kernels.video.limits import check_stale, check_weight

    check_stale(args.stale)
    if args.smooth is not None:
        check_weight(args.smooth)
    if args.view is not None:
        read_address(args.view)
    model_options.check_image_size(args)
    path = args.checkpoint and locate(args.checkpoint)
    exported = path is not None and is_exported(path)
    if path is not None and not exported:
        model_options.check_checkpoint(args.checkpoint)
    runtime = args.runtime or ("openvino" if args.device is not None else None)
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
    """The model or session that segments frames, and whether it was trained.

    Raises:
        InputError: a file or an option does not fit.
        BackendError: the runtime asked for does not run here.
    """
    import torch

    import ht_kernels as ht
    from ht_kernels.deploy import Session
    from ht_kernels.deploy.engine import gpu_target
    from ht_kernels.deploy.fastest import default_runtime, fastest
    from ht_kernels.deploy.openvino_runtime import check_device
    from ht_kernels.deploy.places import is_exported

    def show(phase: str) -> None:
        print(f"building an engine: {phase}", file=sys.stderr, flush=True)

    runtime = args.runtime
    if runtime is None and args.device is not None:
        runtime = "openvino"
    path = args.checkpoint and locate(args.checkpoint)
    exported = path is not None and is_exported(path)
    if runtime is None and not exported:
        runtime = default_runtime(args.precision)
    if exported:
        return Session.open(path, runtime=runtime, device=args.device, progress=show), True
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
    if runtime == "openvino":
        return Session.open(folded, device=args.device, precision=args.precision, output="grid"), trained
    return Session.open(folded, runtime=runtime, output="grid", progress=show), trained


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


def open_view(text: str | None) -> View | None:
    """The live view at ``[HOST:]PORT``, or None where none is asked for.

    Raises:
        InputError: it is not that, or cannot be listened on.
    """
    from ht_kernels.video.view import View

    if text is None:
        return None
    host, port = read_address(text)
    return View(port, host)


def read_address(text: str) -> tuple[str, int]:
    """The host, by default this machine alone, and the port of ``[HOST:]PORT``.

    Raises:
        InputError: it is not that.
    """
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise InputError(f"--view is {text!r}, expected a port from 0 to 65535, such as 8080, or HOST:PORT")
    return host or "127.0.0.1", int(port)
