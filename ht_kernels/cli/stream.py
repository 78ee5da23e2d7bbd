"""``ht-kernels stream``: a clip or a live source through the folded model, in real time."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ht_kernels.errors import InputError
from ht_kernels.files import claim
from ht_kernels.outputs import RECORDING, SETTINGS

from . import archiving, config, model_options, outputs, running, terminal

if TYPE_CHECKING:
    from ht_kernels.video.igtl_sink import IgtlServer
    from ht_kernels.video.view import View

HELP = "segment or classify a clip or a live source: overlay video, masks, live view and a report of latencies"
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
        "address (rtsp://..., igtl://HOST:PORT/DEVICE)",
    )
    to.add_argument(
        "--output", type=Path, metavar="DIR", help="where results go (default: INPUT's name with -segmented)"
    )
    outputs.add_overwrite(to)
    came.add_argument("--live", action="store_true", help="play a file at its own speed, as a scanner would")
    to.add_argument(
        "--view", metavar="[HOST:]PORT", help="show the overlay to browsers (without HOST: of this machine only)"
    )
    to.add_argument(
        "--igtl", metavar="[HOST:]PORT", help="serve masks and overlays by OpenIGTLink (without HOST: to this machine)"
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
    running.add_measure(to, how)
    running.add_dicom_sr(to)
    archiving.add_arguments(to)
    running.add_arguments(how, runs)
    model_options.add_arguments(parser.add_argument_group("model"), exported=True)


def run(args: argparse.Namespace) -> int:
    crop, spacing = running.read_crop(args.crop), running.read_spacing(args.spacing)
    _check(args)
    archives = archiving.named(args)
    from ht_kernels.media.frames import Box
    from ht_kernels.packages import import_package, installed
    from ht_kernels.video import LiveSource, open_source
    from ht_kernels.video.recording import check_output

    source = open_source(args.input)
    name = "live" if isinstance(source, LiveSource) else source.path.stem or source.path.resolve().name
    output = args.output or Path(f"{name}-segmented")
    check_output(source, output)
    claim(output, (*RECORDING, SETTINGS), args.overwrite)
    config.check_foreign(args, output / SETTINGS)
    for option, asked in (("--dicom-seg", args.dicom_seg), ("--dicom-sr", args.dicom_sr)):
        if asked and args.live:
            raise InputError(f"{option} goes with a DICOM clip that is not played live: leave --live out")
        if asked and source.kind != "dicom":
            raise InputError(f"{option} goes with a DICOM clip, and {source.path} is another")
    if args.dicom_seg:
        from ht_kernels.video.dicom_seg import check_clip

        check_clip(Path(source.path))
    if args.dicom_sr:
        running.check_dicom_sr(Path(source.path), spacing)
    archiving.check(archives, args)
    if isinstance(crop, Box):
        import numpy as np

        crop.of(np.empty(source.size, dtype=np.uint8))
    import_package("av", "the overlay video needs PyAV", "av")
    from ht_kernels.video import Stream, record

    with terminal.interruptible(), ExitStack() as stack:
        view = open_view(args.view)
        if view is not None:
            stack.callback(view.close)
        igtl = open_igtl(args.igtl)
        if igtl is not None:
            stack.callback(igtl.close)
        model, trained = running.open_model(args)
        if not trained:
            model_options.warn_untrained()
        stream = Stream(
            model,
            live=args.live,
            stale=args.stale,
            smooth=args.smooth,
            crop=crop,
            unfamiliar=args.unfamiliar,
            measure=args.measure or args.dicom_sr,
            spacing=spacing,
        )
        if view is not None:
            print(f"live view: {view.address}", file=sys.stderr, flush=True)
        if igtl is not None:
            print(f"OpenIGTLink: {igtl.address}", file=sys.stderr, flush=True)
        weights = str(args.checkpoint) if trained else "untrained"
        words = ("segmenting", "segmented") if stream.task == "segmentation" else ("classifying", "classified")
        with terminal.on_interrupt(stream.stop), terminal.progress(source.frame_count, *words) as watch:
            report = record(
                source,
                stream,
                output,
                weights=weights,
                view=view,
                igtl=igtl,
                dicom_seg=args.dicom_seg,
                dicom_sr=args.dicom_sr,
                ohif=args.ohif,
                watch=watch,
            )
    config.write(args, output / SETTINGS)
    terminal.warn(report["input"]["warnings"])
    if args.dicom_sr and not report["interrupted"] and "measurements.dcm" not in report["files"]:
        terminal.warn(["there is no measurements.dcm, for no class was found and measured in millimetres"])
    if not installed("matplotlib"):
        terminal.warn(["there is no latency.png, for the chart needs matplotlib: pip install matplotlib"])
    print("\n".join(terminal.summary(report)))
    print(f"wrote {terminal.listed(output, report['files'])} to {output}")
    archiving.store(archives, [output / name for name in report["files"]])
    if report["interrupted"] and not isinstance(source, LiveSource):
        raise KeyboardInterrupt
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse options that are out of range or do not go together, and a checkpoint that is missing, before the work."""
    from ht_kernels.video.limits import check_stale, check_weight

    check_stale(args.stale)
    if args.smooth is not None:
        check_weight(args.smooth)
    for option, text in (("--view", args.view), ("--igtl", args.igtl)):
        if text is not None:
            read_address(option, text)
    if args.spacing is not None and not (args.measure or args.dicom_sr):
        raise InputError("--spacing was given without --measure, and nothing else needs it: add --measure")
    running.check(args)


def open_view(text: str | None) -> View | None:
    """The live view at ``[HOST:]PORT``, or None where none is asked for.

    Raises:
        InputError: it is not that, or cannot be listened on.
    """
    from ht_kernels.video.view import View

    if text is None:
        return None
    host, port = read_address("--view", text)
    return View(port, host)


def open_igtl(text: str | None) -> IgtlServer | None:
    """The server of OpenIGTLink at ``[HOST:]PORT``, or None where none is asked for.

    Raises:
        InputError: it is not that, or cannot be listened on.
    """
    from ht_kernels.video.igtl_sink import IgtlServer

    if text is None:
        return None
    host, port = read_address("--igtl", text)
    return IgtlServer(port, host)


def read_address(option: str, text: str) -> tuple[str, int]:
    """The host, by default this machine alone, and the port of ``[HOST:]PORT``.

    Raises:
        InputError: it is not that.
    """
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise InputError(f"{option} is {text!r}, expected a port from 0 to 65535, such as 8080, or HOST:PORT")
    return host or "127.0.0.1", int(port)
