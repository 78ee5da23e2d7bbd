"""From a frame to the gray image of a model: ``python -m benchmarks.preprocess --output FILE``, a minute.

Pillow (gray, bicubic resizing) and ``preprocess``, which gives the same bits, take turns in one process, on frames of
speckle in several sizes, gray and RGB. Frames are read again and again, so they lie in the cache as far as it holds
them, as a frame does that was just decoded. Pillow has one thread.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import figures
from ht_kernels.errors import InputError
from ht_kernels.media.preprocess import by_pillow, preprocess

_SIZES = ((240, 320), (672, 896), (768, 1024), (1080, 1920))
FRAMES = tuple((*size, *channels) for size in _SIZES for channels in ((), (3,)))
SIZE = 224, 224


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark. Return exit status 0, or 2 for bad input."""
    args = figures.options("preprocess", __doc__, seconds=3).parse_args(argv)
    rows: list[dict[str, Any]] = []
    every = torch.get_num_threads()
    try:
        for threads in sorted({1, every}):
            for frame in FRAMES:
                facts = {"threads": threads, "height": frame[0], "width": frame[1], "channels": (*frame, 1)[2]}
                rows.append(facts | measure(frame, threads, args.seconds))
                print(table(rows)[-1], flush=True)
        figures.write(args.output, rows, table(rows), size=SIZE)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def measure(shape: tuple[int, ...], threads: int, seconds: float) -> dict[str, Any]:
    """The lower quartile of the milliseconds of each way, by its name."""
    frame = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    ways: dict[str, Callable[[], NDArray[np.uint8]]] = {
        "pillow": lambda: by_pillow(frame, SIZE),
        "ours": lambda: preprocess(frame, SIZE, threads=threads),
    }
    return {name: float(np.quantile(times, 0.25)) for name, times in figures.rounds(ways, seconds).items()}


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The lines of a table in Markdown, in milliseconds."""
    lines = ["| threads | frame | | Pillow | ours | times as fast | GB/s |", "|--:|---|---|--:|--:|--:|--:|"]
    for row in rows:
        frame, kind = f"{row['height']}x{row['width']}", "gray" if row["channels"] == 1 else "RGB"
        moved = row["height"] * row["width"] * row["channels"] + SIZE[0] * SIZE[1]
        milliseconds = f"{row['pillow']:.3g} | {row['ours']:.3g} | {row['pillow'] / row['ours']:.1f}"
        lines.append(f"| {row['threads']} | {frame} | {kind} | {milliseconds} | {1e-6 * moved / row['ours']:.2g} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
