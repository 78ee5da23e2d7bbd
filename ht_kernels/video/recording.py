"""The application: a stream over a source, written into a folder as a video, masks and a report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ht_kernels.errors import InputError
from ht_kernels.files import check_output_folder, output_folder, written
from ht_kernels.media.source import USUAL_FPS, Source
from ht_kernels.outputs import RECORDING

from .live import LiveSource

if TYPE_CHECKING:
    from .stream import Shown, Stream
    from .view import View


def record(
    source: Source | LiveSource,
    stream: Stream,
    output: str | Path,
    *,
    weights: str | None = None,
    view: View | None = None,
    dicom_seg: bool = False,
    watch: Callable[[Shown], None] | None = None,
) -> dict[str, Any]:
    """Run a stream over a source and write what it shows; returns the report.

    The folder gets ``overlay.mp4``, ``masks/`` with a PNG for each frame that has a mask, or for classification
    ``labels.csv`` with a row for each frame, ``latency.png`` and ``report.json``. They appear when the stream ends or
    is stopped, and not at all when an exception ends it. A frame that is shown several times, with newer masks, is
    written as it was shown last.

    Args:
        source: what to read.
        stream: the model, ready to run.
        output: the folder, made where there is none.
        weights: what the report calls the model's weights.
        view: shows each overlay to browsers, too.
        dicom_seg: write ``segmentation.dcm`` too, unless the stream is stopped early.
        watch: called with each frame after it was written.

    Raises:
        InputError: the input is damaged, the output cannot be written or would replace what no stream wrote, or
            ``dicom_seg`` was asked for and the source is not a DICOM clip or is played live, or the model classifies.
        KeyboardInterrupt: the stream was stopped before its first frame, so there is nothing to write.
    """
    from . import chart  # needs matplotlib, which the rest of this package does not
    from .dicom_seg import write_segmentation
    from .sinks import LabelSink, MaskSink, VideoSink

    if dicom_seg and (source.kind != "dicom" or stream.live):
        raise InputError(f"a DICOM Segmentation is made of a DICOM clip not played live, and {source.path} is another")
    if dicom_seg and stream.task != "segmentation":
        raise InputError("a DICOM Segmentation holds masks, and this model classifies whole frames")
    check_output(source, output)
    with output_folder(output, RECORDING) as folder:
        video = VideoSink(folder / "overlay.mp4", source.fps or USUAL_FPS)
        masks = MaskSink(folder / "masks") if stream.task == "segmentation" else None
        labels = LabelSink(folder / "labels.csv", stream.class_names) if masks is None else None
        segmented: list[Any] = []

        def write(shown: Shown) -> None:
            video.write(shown.overlay, shown.seconds)
            if masks is not None and shown.mask is not None:
                masks.write(shown.mask, shown.index)
            if labels is not None:
                labels.write(shown.index, shown.seconds, shown.state, shown.label, shown.probabilities)
            if dicom_seg:
                segmented.append(shown.mask)
            if watch is not None:
                watch(shown)

        before: Shown | None = None
        try:
            for shown in stream.run(source):
                if view is not None:
                    view.write(shown.overlay)
                if before is not None and not shown.replaces(before):
                    write(before)
                before = shown
            if before is not None:
                write(before)
        finally:
            video.close()
            if labels is not None:
                labels.close()
        report = _report(source, stream, weights)
        if not report["frames"]:
            raise KeyboardInterrupt
        if dicom_seg and not report["interrupted"]:
            write_segmentation(folder / "segmentation.dcm", Path(source.path), segmented, stream.class_names)
        (folder / "latency.png").write_bytes(chart.draw(report))
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def check_output(source: Source | LiveSource, output: str | Path) -> None:
    """Refuse an output that is a file, or would replace the input or what no stream wrote.

    Raises:
        InputError: it would.
    """
    folder = Path(output)
    check_output_folder(folder)
    if isinstance(source, Source):
        came, place = source.path.resolve(), folder.resolve()
        if came == place or any(came.is_relative_to(place / name.partition("/")[0]) for name in RECORDING):
            raise InputError(f"the output {output} would replace the input {source.path}: name another folder")
    there = written(folder, (*RECORDING, "masks/*"))
    if there and not _is_report(folder / "report.json"):
        raise InputError(
            f"{there[0]} is there already, and no stream wrote it, as there is no report.json of one beside it: name "
            "another folder for the output"
        )


def _is_report(path: Path) -> bool:
    """Whether a file is the report of a stream."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and "latency_ms" in values


def _report(source: Source | LiveSource, stream: Stream, weights: str | None) -> dict[str, Any]:
    """What was read, what came of it and how long it took, and what computed it."""
    import torch

    from ht_kernels import environment

    facts = environment.describe()
    return {
        "input": {
            "path": str(source.path),
            "kind": source.kind,
            "fps": source.fps,
            "height": source.size[0],
            "width": source.size[1],
            "warnings": [] if isinstance(source, LiveSource) else list(source.warnings),
        },
        **stream.report(),
        "weights": weights,
        "threads": torch.get_num_threads(),
        "cpu": facts["cpu"],
        "gpus": facts["gpus"],
        "versions": {
            "ht_kernels": facts["ht_kernels"],
            "python": facts["python"],
            **{name: found for name, found in facts["packages"].items() if found},
        },
        "interrupted": stream.stopped,
    }
