"""Video on this machine: frames per second, and the time from a frame of the source to its overlay.

``python -m benchmarks.video --output DIR`` writes video.json, and a table beside it in Markdown, in two minutes. The
source is pydicom's example clip, 240x320, repeated. Every model processes it twice: as a file, where every frame gets
its mask, as fast as possible; and live at 30 frames per second, where the model takes the newest frame and no frame
waits for the model.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from ht_kernels.bench.stream import BACKBONE, endless, play, segmentation_model
from ht_kernels.errors import InputError
from ht_kernels.media.opening import open_file
from ht_kernels.video import Source
from ht_kernels.video.example import example_clip

from . import figures

BACKBONES = (BACKBONE, "timm/vit_base_patch16_224")


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark. Return exit status 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.video", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="for video.json and video.md")
    parser.add_argument("--seconds", type=figures.duration, default=28, help="of each run (default: %(default)s)")
    parser.add_argument("--backbone", nargs="+", metavar="NAME", default=BACKBONES, help="default: %(default)s")
    args = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    try:
        for name in args.backbone:
            rows.append(measure(name, args.seconds))
        figures.write(args.output / "video.json", rows, table(rows), threads=torch.get_num_threads())
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(table(rows)))
    return 0


def measure(backbone: str, seconds: float) -> dict[str, Any]:
    """Run a model twice, as a file and live, and return the reports of both runs."""
    torch.manual_seed(0)
    model = segmentation_model(backbone)
    row: dict[str, Any] = {"model": backbone}
    for name, live in (("file", False), ("live", True)):
        row[name] = play(model, repeated(), live=live, seconds=seconds)
    return row


def repeated() -> Source:
    """A source that repeats the clip without end, and decodes it every time."""
    clip = open_file(example_clip())
    return endless(clip.path, clip.kind, clip.size, clip)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of a Markdown table of the figures, with latencies in milliseconds."""
    lines = [
        "| | runtime | file: frames/s | source to overlay, p50 | p95 | p99 | live: masks/s | its frame to overlay, p50 "
    ]
    lines[0] += "| p95 | p99 | any frame, p99 |"
    lines += ["|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"]
    for row in rows:
        file, live = row["file"]["latency_ms"]["end_to_end"], row["live"]["latency_ms"]
        cells = [row["model"], row["live"]["model"]["runtime"], f"{row['file']['fps']:.1f}"]
        cells += [*(f"{file[p]:.1f}" for p in ("p50", "p95", "p99"))]
        cells.append(f"{row['live']['masks_per_second']:.1f}")
        cells += [f"{live['mask_delay'][p]:.1f}" for p in ("p50", "p95", "p99")]
        cells.append(f"{live['frame_age']['p99']:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
