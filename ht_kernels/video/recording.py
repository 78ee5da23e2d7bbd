"""The application: a stream over a source, written into a folder as a video or pictures, masks and a report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ht_kernels.class_colors import color_of
from ht_kernels.errors import InputError
from ht_kernels.files import check_foreign, check_output_folder, output_folder, read_object, within, written
from ht_kernels.media.source import USUAL_FPS, Source
from ht_kernels.outputs import MEASUREMENTS, RECORDING
from ht_kernels.packages import installed
from ht_kernels.threads import usual

from .calipers import in_words
from .live import LiveSource

if TYPE_CHECKING:
    from .igtl_sink import IgtlServer
    from .stream import Shown, Stream
    from .view import View

_FILES = (
    *("overlay.mp4", "overlays", "masks", "labels.csv", *MEASUREMENTS, "latency.png", "report.json"),
    *("segmentation.dcm", "measurements.dcm"),
)
"""What :func:`record` writes into its folder."""


def record(
    source: Source | LiveSource,
    stream: Stream,
    output: str | Path,
    *,
    weights: str | None = None,
    view: View | None = None,
    igtl: IgtlServer | None = None,
    dicom_seg: bool = False,
    ohif: bool = False,
    dicom_sr: bool = False,
    watch: Callable[[Shown], None] | None = None,
) -> dict[str, Any]:
    """Run a stream over a source and write what it shows; returns the report.

    The folder gets ``overlay.mp4``, ``masks/`` with a PNG for each frame that has a mask (``00001.png`` for frame 0),
    or for classification ``labels.csv`` with a row for each frame, ``report.json`` and, where matplotlib is installed,
    ``latency.png``. Of pictures, which are one image or a folder of them, there is no video: ``overlays/`` has a PNG of
    each picture in its own size, and these and the masks have the names of the pictures. A stream that measures gets
    ``measurements.csv`` and ``measurements.json``, with a row for each frame and class as
    :func:`ht_kernels.video.measurement_tables.rows_of` makes it; the report has the largest row of each class.

    All appears when the stream ends or is stopped, and nothing when an exception ends it. A frame that is shown several
    times, with newer masks, is written as it was shown last. What an earlier stream wrote into the folder is replaced.

    Args:
        source: what to read.
        stream: the model, ready to run.
        output: the folder, made where there is none.
        weights: what the report calls the model's weights.
        view: shows each overlay to browsers, too.
        igtl: serves each mask and overlay to programs that speak OpenIGTLink, too.
        dicom_seg: write ``segmentation.dcm`` too, unless the stream is stopped early.
        ohif: write into it also what the viewer OHIF asks for (:func:`ht_kernels.video.dicom_seg.write_segmentation`).
        dicom_sr: write ``measurements.dcm`` too, a report that refers to the segmentation where that is written, unless
            the stream is stopped early or no class is found and measured in millimetres. The stream must measure.
        watch: called with each frame after it was written.

    Raises:
        InputError: the input is damaged, the output cannot be written or would replace what no stream wrote, or
            ``dicom_seg`` or ``dicom_sr`` was asked for and the source is not a DICOM clip or is played live, the model
            classifies, or the stream does not measure.
        KeyboardInterrupt: the stream was stopped before its first frame, so there is nothing to write.
    """
    from .dicom_seg import write_segmentation
    from .dicom_sr import Largest, write_report
    from .measurement_tables import MeasurementTables
    from .sinks import LabelSink, MaskSink, PictureSink, VideoSink
    from .stream import Stream

    if not isinstance(source, (Source, LiveSource)):
        raise TypeError(f"source must be what ht_kernels.video.open_source gives, got {type(source).__name__}")
    if not isinstance(stream, Stream):
        raise TypeError(f"stream must be a Stream, got {type(stream).__name__}: ht_kernels.video.Stream(model) is one")
    if dicom_seg and (source.kind != "dicom" or stream.live):
        raise InputError(f"a DICOM Segmentation is made of a DICOM clip not played live, and {source.path} is another")
    if dicom_seg and stream.task != "segmentation":
        raise InputError("a DICOM Segmentation holds masks, and this model classifies whole frames")
    if dicom_sr and (source.kind != "dicom" or stream.live):
        raise InputError(f"a DICOM report is made of a DICOM clip not played live, and {source.path} is another")
    if dicom_sr and not stream.measures:
        raise InputError("a DICOM report has measurements, and this stream makes none: make it with measure=True")
    check_output(source, output)
    names, report = _names(source), _read_report(Path(output) / "report.json")
    with output_folder(output, (*_results(report), *_masks_and_pictures(report))) as folder:
        video = VideoSink(folder / "overlay.mp4", source.fps or USUAL_FPS) if names is None else None
        pictures = None if names is None else PictureSink(folder / "overlays", names)
        masks = MaskSink(folder / "masks", names) if stream.task == "segmentation" else None
        labels = LabelSink(folder / "labels.csv", stream.class_names) if masks is None else None
        tables = MeasurementTables(folder) if stream.measures else None
        segmented: list[Any] = []
        largest = Largest()
        legend = [(name, color_of(i)) for i, name in enumerate(stream.class_names[1:], 1)] if masks is not None else []

        last_mask = 0

        def write(shown: Shown) -> None:
            nonlocal last_mask
            if video is not None:
                video.write(shown.overlay, shown.seconds)
            if pictures is not None:
                pictures.write(shown.overlay, shown.index)
            if masks is not None and shown.mask is not None:
                masks.write(shown.mask, shown.index)
                last_mask = shown.index + 1
            if labels is not None:
                labels.write(shown.index, shown.seconds, shown.state, shown.label, shown.probabilities)
            if tables is not None:
                for row in _sizes(source, stream, shown, names):
                    tables.write(row)
            if dicom_seg:
                segmented.append(shown.mask)
            if dicom_sr:
                largest.add(shown.index, shown.mask, shown.measurements)
            if watch is not None:
                watch(shown)

        before: Shown | None = None
        try:
            for shown in stream.run(source):
                if view is not None:
                    view.write(shown.overlay, _told(shown), legend)
                if igtl is not None:
                    igtl.write(shown, masks is not None)
                if before is not None and not shown.replaces(before):
                    write(before)
                before = shown
            if before is not None:
                write(before)
        finally:
            if video is not None:
                video.close()
            if labels is not None:
                labels.close()
            if tables is not None:
                tables.close()
        report = _report(source, stream, weights)
        if not report["frames"]:
            raise KeyboardInterrupt
        if dicom_seg and not report["interrupted"]:
            place = folder / "segmentation.dcm"
            write_segmentation(
                place, Path(source.path), segmented, stream.class_names, spacing=stream.spacing, ohif=ohif
            )
        if dicom_sr and not report["interrupted"] and (found := largest.found()):
            segmentation = folder / "segmentation.dcm" if dicom_seg else None
            write_report(folder / "measurements.dcm", Path(source.path), found, len(stream.class_names), segmentation)
        if installed("matplotlib"):
            from . import chart

            (folder / "latency.png").write_bytes(chart.draw(report))
        report["files"] = [name for name in _FILES if name == "report.json" or (folder / name).exists()]
        report["pictures"] = names
        if tables is not None:
            report["measurements"] = tables.largest
        report["last_mask"] = last_mask
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
        if came == place or any(came.is_relative_to(place / name) for name in _FILES):
            raise InputError(f"the output {output} would replace the input {source.path}: name another folder")
    there = [*written(folder, RECORDING), *folder.glob("masks/*"), *folder.glob("overlays/*")]
    report = _read_report(folder / "report.json")
    if there and not report:
        raise InputError(
            f"{there[0]} is there already, and no stream wrote it, as there is no report.json of one beside it: name "
            "another folder for the output"
        )
    check_foreign(folder, RECORDING, _results(report))


def _names(source: Source | LiveSource) -> list[str] | None:
    """The names of a source's pictures, without endings unless two would be the same; None for a clip."""
    if isinstance(source, LiveSource) or source.names is None:
        return None
    stems = [Path(name).stem for name in source.names]
    return stems if len(set(stems)) == len(stems) else list(source.names)


def _read_report(path: Path) -> dict[str, Any]:
    """The report of an earlier stream; empty if the file is none, or is missing."""
    values = read_object(path)
    return values if "latency_ms" in values else {}


def _results(report: dict[str, Any]) -> list[str]:
    """The files beside masks and pictures that an earlier stream wrote; older versions did not say which."""
    listed = {str(path) for path in within(report.get("files", list(RECORDING)))}
    return [name for name in RECORDING if name in listed]


def _masks_and_pictures(report: dict[str, Any]) -> list[str]:
    """The masks and pictures that an earlier stream wrote, by their paths in its folder."""
    names, last = report.get("pictures"), report.get("last_mask")
    if isinstance(names, list):
        safe = [name for name in names if isinstance(name, str) and "/" not in name]
        return [f"{kind}/{name}.png" for kind in ("overlays", "masks") for name in safe]
    return [f"masks/{number:05}.png" for number in range(1, last + 1)] if isinstance(last, int) else []


def _sizes(
    source: Source | LiveSource, stream: Stream, shown: Shown, names: list[str] | None
) -> Iterator[dict[str, Any]]:
    """The rows of the measurements of a frame. A picture is named in place of the folder that it is in."""
    from .measurement_tables import rows_of

    return rows_of(
        shown.measurements,
        stream.class_names,
        file=str(source.path) if names is None else names[shown.index],
        frame=shown.index + 1,
        seconds=shown.seconds,
        state=shown.state,
        why="" if shown.state == "ok" else shown.note,
    )


def _told(shown: Shown) -> dict[str, str]:
    """What the live view says beside a frame."""
    told = {
        "state": f"{shown.state}: {shown.note}" if shown.note else shown.state,
        "latency": f"{1e3 * shown.age:.0f} ms from decoding the frame to this picture",
        "frame": f"{shown.index + 1}, at {shown.seconds:.1f} s",
    }
    if shown.confidence is not None:
        told["confidence"] = f"{shown.confidence:.2f} (near the outline of the mask, from 0 to 1)"
    if shown.distance is not None:
        told["distance"] = f"{shown.distance:.2f} from the training images"
    told |= {found.name: in_words(found) for found in shown.measurements or () if found.pixels}
    return told


def _report(source: Source | LiveSource, stream: Stream, weights: str | None) -> dict[str, Any]:
    """What was read, what came of it and how long it took, and what computed it."""
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
        "threads": usual(),
        "cpu": facts["cpu"],
        "gpus": facts["gpus"],
        "versions": {
            "ht_kernels": facts["ht_kernels"],
            "python": facts["python"],
            **{name: found for name, found in facts["packages"].items() if found},
        },
        "interrupted": stream.stopped,
    }
