"""``ht-kernels stream``: a clip or a live source through the folded model, in real time."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ht_kernels.errors import InputError

from . import model_options

if TYPE_CHECKING:
    from ht_kernels.deploy import FoldedHTCLIP, Session
    from ht_kernels.video import LiveSource, Shown, Source, Stream
    from ht_kernels.video.crop import Box
    from ht_kernels.video.view import View

HELP = "segment a clip or a live source: overlay video, masks, live view and a report of latencies"


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
    parser.add_argument("--view", metavar="[HOST:]PORT", help="show the overlay to browsers (HOST: this machine only)")
    parser.add_argument(
        "--stale", type=float, default=0.25, metavar="SECONDS", help="live: draw no mask older (default: %(default)s)"
    )
    parser.add_argument(
        "--smooth", type=float, metavar="WEIGHT", help="average masks over time; weight of the newest, above 0 to 1"
    )
    parser.add_argument("--crop", metavar="auto|X,Y,W,H", help="what the model sees: the scan without text, or a box")
    parser.add_argument("--dicom-seg", action="store_true", help="of a DICOM clip, write a DICOM Segmentation too")
    parser.add_argument(
        "--runtime",
        choices=("tensorrt", "cuda_graph", "onnxruntime", "cpu"),
        help="what runs the model (default: for a checkpoint cuda_graph where there is a GPU, else cpu; for an "
        "exported file the best that is here)",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "bf16"),
        default="fp32",
        help="of tokens and matrices in a cuda_graph (default: %(default)s)",
    )
    model_options.add_arguments(parser, exported=True)


def run(args: argparse.Namespace) -> int:
    from ht_kernels.video import LiveSource, Stream, open_source
    from ht_kernels.video.dicom_seg import check_clip

    crop = read_crop(args.crop)
    source = open_source(args.input)
    name = "live" if isinstance(source, LiveSource) else source.path.stem or source.path.resolve().name
    output = args.output or Path(f"{name}-segmented")
    if args.dicom_seg and (source.kind != "dicom" or args.live):
        raise InputError(f"--dicom-seg goes with a DICOM clip that is not played live, and {source.path} is another")
    if args.dicom_seg:
        check_clip(Path(source.path))
    with interruptible(), ExitStack() as stack:
        model, trained = open_model(args)
        if not trained:
            model_options.warn_untrained()
        stream = Stream(model, live=args.live, stale=args.stale, smooth=args.smooth, crop=crop)
        view = open_view(args.view)
        if view is not None:
            stack.callback(view.close)
            print(f"live view: {view.address}", file=sys.stderr, flush=True)
        weights = str(args.checkpoint) if trained else "untrained"
        report = record(source, stream, model, output, weights, view=view, dicom_seg=args.dicom_seg)
    print("\n".join(summary(report)))
    print(f"wrote overlay.mp4, masks/, latency.png and report.json to {output}")
    if report["interrupted"] and not isinstance(source, LiveSource):
        raise KeyboardInterrupt
    return 0


def open_model(args: argparse.Namespace) -> tuple[FoldedHTCLIP | Session, bool]:
    """What runs the frames, and whether it was trained.

    Raises:
        InputError: a file or an option does not fit.
        BackendError: the runtime asked for does not run here.
    """
    import torch

    import ht_kernels as ht
    from ht_kernels.deploy import Session
    from ht_kernels.deploy.engine import gpu_target
    from ht_kernels.deploy.manifest import is_exported

    def show(phase: str) -> None:
        print(f"building an engine: {phase}", file=sys.stderr, flush=True)

    runtime = args.runtime
    on_gpu = runtime == "cuda_graph" or (runtime is None and torch.cuda.is_available())
    exported = args.checkpoint is not None and is_exported(args.checkpoint)
    if args.precision != "fp32" and (exported or not on_gpu):
        raise InputError(
            f"--precision {args.precision} is for a checkpoint on a GPU with --runtime cuda_graph; an exported file "
            "has its own precision, and the CPU computes fp32"
        )
    if exported and (args.backbone or args.pretrained):
        raise InputError(f"{args.checkpoint} has its tower in it: leave --backbone and --pretrained out")
    if exported:
        return Session.open(args.checkpoint, runtime=runtime, progress=show), True
    if on_gpu:
        gpu_target()  # before a model is loaded that nothing could run
    model, trained = model_options.load_model(args)
    if on_gpu:
        dtype = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}[args.precision]
        return ht.fold(model.cuda(), dtype), trained
    folded = ht.fold(model)
    if runtime in (None, "cpu"):
        return folded, trained
    return Session.open(folded, runtime=runtime, progress=show), trained


def segment_clip(
    source: Source, model: FoldedHTCLIP, output: Path, weights: str, keep: list[Shown] | None = None
) -> dict[str, Any]:
    """Run a clip and write overlay.mp4, masks/, latency.png and report.json into ``output``; returns the report.

    ``keep`` collects the results, for a caller that shows some of them.
    """
    from ht_kernels.video import Stream

    return record(source, Stream(model), model, output, weights, keep=keep)


def record(
    source: Source | LiveSource,
    stream: Stream,
    model: FoldedHTCLIP | Session,
    output: Path,
    weights: str,
    view: View | None = None,
    dicom_seg: bool = False,
    keep: list[Shown] | None = None,
) -> dict[str, Any]:
    """Run a stream into files, which appear when it ends or is interrupted; returns the report.

    Raises:
        InputError: the input is damaged, or the output cannot be written.
    """
    from ht_kernels.video import chart
    from ht_kernels.video.dicom_seg import write_segmentation
    from ht_kernels.video.sinks import MaskSink, OutputFolder, VideoSink, write_json
    from ht_kernels.video.sources import USUAL_FPS

    interrupted = False

    def stop() -> None:
        nonlocal interrupted
        interrupted = True
        stream.stop()

    kept: list[Any] = []
    try:
        with on_interrupt(stop), OutputFolder(output) as folder:
            video = VideoSink(folder / "overlay.mp4", source.fps or USUAL_FPS)
            masks = MaskSink(folder / "masks")
            try:
                for shown in progress(stream.run(source), source.frame_count):
                    if view is not None:
                        view.write(shown.overlay)
                    video.write(shown.overlay)
                    if shown.mask is not None:
                        masks.write(shown.mask, shown.index)
                    if dicom_seg:
                        kept.append(shown.mask)
                    if keep is not None:
                        keep.append(shown)
            finally:
                video.close()
            report = {**describe(source, stream, model, weights), "interrupted": interrupted}
            if not report["frames"]:
                raise KeyboardInterrupt
            if dicom_seg and not interrupted:
                assert source.kind == "dicom"
                names = stream.class_names
                write_segmentation(folder / "segmentation.dcm", Path(source.path), kept, names)
            (folder / "latency.png").write_bytes(chart.draw(report))
            write_json(folder / "report.json", report)
    except OSError as error:
        raise InputError(f"the output {output} cannot be written: {error.strerror or error}") from error
    return report


def describe(
    source: Source | LiveSource, stream: Stream, model: FoldedHTCLIP | Session, weights: str
) -> dict[str, Any]:
    """The report: what was read, what it took, what computed it."""
    import torch

    from ht_kernels import environment
    from ht_kernels.deploy import FoldedHTCLIP

    facts = environment.describe()
    return {
        "input": {
            "path": str(source.path),
            "kind": source.kind,
            "fps": source.fps,
            "height": source.size[0],
            "width": source.size[1],
        },
        **stream.report(),
        "weights": weights,
        "backend": model.backend() if isinstance(model, FoldedHTCLIP) else None,
        "threads": torch.get_num_threads(),
        "cpu": facts["cpu"],
        "gpus": facts["gpus"],
        "versions": {
            "ht_kernels": facts["ht_kernels"],
            "python": facts["python"],
            **{name: found for name, found in facts["packages"].items() if found},
        },
    }


def summary(report: dict[str, Any]) -> list[str]:
    """The report in a few lines."""
    states = ", ".join(f"{count} {state}" for state, count in report["states"].items())
    lines = [
        f"{report['frames']} frames ({states}), {report['fps']} frames per second with reading and writing, "
        + (f"backend {report['backend']}" if report["backend"] else f"by {report['model']['runtime']}"),
        f"{'milliseconds':<14}{'p50':>9}{'p95':>9}{'p99':>9}{'max':>9}",
    ]
    for stage, row in report["latency_ms"].items():
        lines.append(f"{stage.replace('_', ' '):<14}" + "".join(f"{row[name]:>9.2f}" for name in row))
    return lines


def read_crop(text: str | None) -> Any:
    """``auto``, or a box of ``X,Y,W,H``.

    Raises:
        InputError: it is neither.
    """
    from ht_kernels.video.crop import Box

    if text in (None, "auto"):
        return text
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        raise InputError(f"--crop is {text!r}, expected auto or four numbers X,Y,W,H in pixels")
    box: Box = Box(*map(int, parts))
    return box


def open_view(text: str | None) -> View | None:
    """The live view asked for as ``[HOST:]PORT``.

    Raises:
        InputError: it is not that, or cannot be listened on.
    """
    from ht_kernels.video.view import View

    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not port.isdecimal():
        raise InputError(f"--view is {text!r}, expected a port such as 8080, or HOST:PORT")
    return View(int(port), host or "127.0.0.1")


def progress(results: Iterator[Shown], total: int | None) -> Iterator[Shown]:
    """Pass results on; a progress bar in a terminal, otherwise a plain line every few seconds' worth of frames."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("segmenting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("segmenting", total=total)
            for result in results:
                yield result
                bar.advance(task)
        return
    for result in results:
        yield result
        done = result.index + 1
        if done % 100 == 0 or done == total:
            print(f"segmented {done}{f' of {total}' if total else ''} frames", file=sys.stderr, flush=True)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let a request to terminate clean up as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` on Ctrl-C or a request to terminate, in place of an exception amid a half-written file."""
    numbers = signal.SIGINT, signal.SIGTERM
    before = [signal.signal(number, lambda *_: stop()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
