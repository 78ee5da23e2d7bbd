"""From logits on a 14 x 14 grid to the mask of a frame: ``python -m benchmarks.grid_to_mask --output FILE``, a minute.

Three ways take turns, in one process: upsampling and argmax in torch, upsampling and the rule of
:mod:`ht_kernels.classes`, which compares two logits where there are two, and ``grid_to_mask``. The logits are those of
a disk in each class, so that most of a mask is of one class, as in practice; the last column has random logits, with
which nearly every cell holds an outline, the worst case of the kernel.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import figures
from ht_kernels.classes import classes_of
from ht_kernels.errors import InputError
from ht_kernels.functional import grid_to_mask

SIZES = ((240, 320), (672, 896), (1080, 1920))
CLASSES = (2, 4, 32)
_GRID = 14


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark. Return exit status 0, or 2 for bad input."""
    args = figures.options("grid_to_mask", __doc__, seconds=1.5).parse_args(argv)
    rows: list[dict[str, Any]] = []
    every = torch.get_num_threads()
    try:
        for threads in sorted({1, every}):
            torch.set_num_threads(threads)
            for size in SIZES:
                for classes in CLASSES:
                    facts = {"threads": threads, "height": size[0], "width": size[1], "classes": classes}
                    rows.append(facts | measure(size, classes, args.seconds))
                    print(table(rows)[-1], flush=True)
        figures.write(args.output, rows, table(rows), grid=_GRID)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        torch.set_num_threads(every)
    return 0


def disks(classes: int) -> Tensor:
    """Logits (1, K, 14, 14) float32: class 0 everywhere, and a disk of each other class."""
    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(_GRID), torch.arange(_GRID), indexing="ij")
    centres, radii = _GRID * torch.rand(classes, 2), 1 + 2 * torch.rand(classes)
    distances = (rows - centres[:, :1, None]).square() + (columns - centres[:, 1:, None]).square()
    logits = radii[:, None, None] - distances.sqrt()
    logits[0] = 0
    return logits[None]


def measure(size: tuple[int, int], classes: int, seconds: float) -> dict[str, Any]:
    """The median milliseconds of each way, by its name."""
    logits, noise = disks(classes), torch.randn(1, classes, _GRID, _GRID)

    def upsampled() -> Tensor:
        return F.interpolate(logits, size, mode="bilinear", align_corners=False)

    ways: dict[str, Callable[[], Tensor]] = {
        "argmax": lambda: upsampled().argmax(1).to(torch.uint8),
        "classes_of": lambda: classes_of(upsampled()),
        "ours": lambda: grid_to_mask(logits, size),
        "ours_noise": lambda: grid_to_mask(noise, size),
    }
    with torch.inference_mode():
        return {name: float(torch.tensor(times).median()) for name, times in figures.rounds(ways, seconds).items()}


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The lines of a table in Markdown, in milliseconds."""
    lines = [
        "| threads | frame | classes | upsample, argmax | upsample, classes_of | ours | times as fast | ours, noise |",
        "|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        frame = f"{row['height']}x{row['width']}"
        milliseconds = " | ".join(f"{row[name]:.3g}" for name in ("argmax", "classes_of", "ours"))
        faster, noise = row["classes_of"] / row["ours"], row["ours_noise"]
        lines.append(f"| {row['threads']} | {frame} | {row['classes']} | {milliseconds} | {faster:.0f} | {noise:.3g} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
