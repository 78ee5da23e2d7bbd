"""``ht-kernels stream``: a clip or a live source through the folded model, in real time."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ht_kernels.errors import InputError

from . import model_options, running, terminal
from .running import open_model

if TYPE_CHECKING:
    from ht_kernels.video.view import View

HELP = "segment or classify a clip or a live source: overlay video, masks, live view and a report of latencies"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input",
        metavar="INPUT",
        help="a DICOM ultrasound clip, a video file, a folder of images, one image, a camera (/dev/video0) or an "
        "address (rtsp://...)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="where results go (default: INPUT's name with -segmented)"
    )
    parser.add_argument("--live", action="store_true", help="play a file at its own speed, as a scanner would")
    parser.add_argument(
        "--view", metavar="[HOST:]PORT", help="show the overlay to browsers (without HOST: of this machine only)"
    )
    parser.add_argument(
        "--stale",
        type=float,
        default=0.25,
        metavar="SECONDS",
        help="live: draw no mask older than this (default: %(default)s)",
    )
    parser.add_argument(
        "--smooth", type=float, metavar="WEIGHT", help="average masks over time, the newest with this weight, up to 1"
    )
    parser.add_argument("--dicom-seg", action="store_true", help="for a DICOM clip: also write a DICOM Segmentation")
    running.add_arguments(parser)
    model_options.add_arguments(parser, exported=True)


def run(args: argparse.Namespace) -> int:
    import numpy as np

    from ht_kernels.media.frames import Box
    from ht_kernels.packages import import_package
    from ht_kernels.video import LiveSource, Stream, open_source, record
    from ht_kernels.video.dicom_seg import check_clip
    from ht_kernels.video.recording import check_output
    from ht_kernels.video.smooth import Smoother
    from ht_kernels.video.stream import check_stale

    crop = running.read_crop(args.crop)
    check_stale(args.stale)
    if args.smooth is not None:
        Smoother(args.smooth)
    model_options.check_image_size(args)
    import_package("av", "the overlay video needs PyAV", "av")
    import_package("matplotlib", "the chart of latencies needs matplotlib", "matplotlib")
    source = open_source(args.input)
    name = "live" if isinstance(source, LiveSource) else source.path.stem or source.path.resolve().name
    output = args.output or Path(f"{name}-segmented")
    check_output(source, output)
    if args.dicom_seg and (source.kind != "dicom" or args.live):
        raise InputError(f"--dicom-seg goes with a DICOM clip that is not played live, and {source.path} is another")
    if args.dicom_seg:
        check_clip(Path(source.path))
    if isinstance(crop, Box):
        crop.of(np.empty(source.size, dtype=np.uint8))
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
        words = ("segmenting", "segmented") if stream.task == "segmentation" else ("classifying", "classified")
        with terminal.on_interrupt(stream.stop), terminal.progress(source.frame_count, *words) as watch:
            report = record(source, stream, output, weights=weights, view=view, dicom_seg=args.dicom_seg, watch=watch)
    terminal.warn(report["input"]["warnings"])
    print("\n".join(terminal.summary(report)))
    results = "masks/" if stream.task == "segmentation" else "labels.csv"
    print(f"wrote overlay.mp4, {results}, latency.png and report.json to {output}")
    if report["interrupted"] and not isinstance(source, LiveSource):
        raise KeyboardInterrupt
    return 0


def open_view(text: str | None) -> View | None:
    """The live view at ``[HOST:]PORT``, or None where none is asked for.

    Raises:
        InputError: it is not that, or cannot be listened on.
    """
    from ht_kernels.video.view import View

    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise InputError(f"--view is {text!r}, expected a port from 0 to 65535, such as 8080, or HOST:PORT")
    return View(int(port), host or "127.0.0.1")
