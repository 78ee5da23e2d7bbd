"""``ht-kernels stream``: a clip through the folded model, frame by frame, as at the scanner."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from . import model_options

if TYPE_CHECKING:
    from ht_kernels.deploy import FoldedHTCLIP
    from ht_kernels.video import Pipeline, Result, Source

HELP = "segment a clip: overlay video, masks and a report of latencies"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input",
        type=Path,
        metavar="INPUT",
        help="a DICOM ultrasound clip, a video file, a folder of images, or one image",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="where results go (default: INPUT's name with -segmented)"
    )
    model_options.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    import ht_kernels as ht
    from ht_kernels.video import open_source

    source = open_source(args.input)
    output = args.output or Path(f"{args.input.stem or args.input.resolve().name}-segmented")
    with interruptible():
        model, trained = model_options.load_model(args)
        folded = ht.fold(model)
        if not trained:
            model_options.warn_untrained()
        report = segment_clip(source, folded, output, weights=str(args.checkpoint) if trained else "untrained")
    print("\n".join(summary(report)))
    print(f"wrote overlay.mp4, masks/ and report.json to {output}")
    return 0


def segment_clip(
    source: Source, model: FoldedHTCLIP, output: Path, weights: str, keep: list[Result] | None = None
) -> dict[str, Any]:
    """Run a clip and write overlay.mp4, masks/ and report.json into ``output``; returns the report.

    ``keep`` collects the results, for a caller that shows some of them.
    """
    from ht_kernels.video import Pipeline
    from ht_kernels.video.sinks import MaskSink, OutputFolder, VideoSink, write_json

    with OutputFolder(output) as folder:
        pipeline = Pipeline(model)
        video, masks = VideoSink(folder / "overlay.mp4", source.fps or 10.0), MaskSink(folder / "masks")
        for result in progress(pipeline.run(source), source.frame_count):
            video.write(result.overlay)
            masks.write(result.mask)
            if keep is not None:
                keep.append(result)
        video.close()
        report = describe(source, pipeline, weights)
        write_json(folder / "report.json", report)
    return report


def describe(source: Source, pipeline: Pipeline, weights: str) -> dict[str, Any]:
    """The report: what was read, what it took, what computed it."""
    import torch

    from ht_kernels import environment
    from ht_kernels.backends import Case, choose

    model = pipeline.model
    backend = None
    for adapter in model.adapters.values():
        dim, bottleneck = adapter.get_buffer("up_weight").shape
        case = Case(
            model.position.device, model.position.dtype, dim, bottleneck, model.grid, model.prefix_tokens, False
        )
        backend = choose(case)
    facts = environment.describe()
    return {
        "input": {
            "path": str(source.path),
            "kind": source.kind,
            "fps": source.fps,
            "height": source.size[0],
            "width": source.size[1],
        },
        **pipeline.report(),
        "weights": weights,
        "backend": backend,
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
    lines = [
        f"{report['frames']} frames, {report['fps']} frames per second with reading and writing, "
        f"backend {report['backend']}",
        f"{'milliseconds':<14}{'p50':>9}{'p95':>9}{'p99':>9}",
    ]
    for stage, row in report["latency_ms"].items():
        lines.append(f"{stage.replace('_', ' '):<14}{row['p50']:>9.2f}{row['p95']:>9.2f}{row['p99']:>9.2f}")
    return lines


def progress(results: Iterator[Result], total: int | None) -> Iterator[Result]:
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
