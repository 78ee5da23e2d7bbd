"""What bfloat16, int8 and FP8 lose beside float32: ``python -m benchmarks.precisions DATA --output FILE``.

Every precision is compared by its own gate, on images that nothing was calibrated with. The models are ``breast``,
whose masks mean something, and a ViT-B/16 with random weights in whose tokens one channel is far larger than all
others, as in trained towers. Products have sums in float32, as on a GPU; those of FP8 are computed by torch's CPU code.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ht_kernels as ht
from benchmarks import figures
from ht_kernels.bench.shake import shake
from ht_kernels.clip.injection import adapters
from ht_kernels.data import SegmentationDataset
from ht_kernels.deploy import FoldedHTCLIP, check_folded, check_onnx, export_onnx, quantize_fp8
from ht_kernels.deploy.gate import Report, Thresholds
from ht_kernels.errors import InputError
from ht_kernels.train import read_examples

OUTLIER = 100.0
"""What is added to one channel of the position embedding. The others have a standard deviation of about 1."""
_ANY = Thresholds(cosine=-1.0, relative=float("inf"), agreement=0.0, dice=0.0, distance=float("inf"))
_HEAD = "| model | products in | relative error | cosine | same class | Dice, mean | worst image | distance |"


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark. Return exit status 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precisions", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="figures, in JSON")
    parser.add_argument("data", type=Path, metavar="DATA", help="a folder in the published layout")
    parser.add_argument("--dataset", default="BUSI", metavar="NAME", help="which of its data sets")
    parser.add_argument("--model", nargs="+", default=list(MODELS), choices=MODELS, help="which models")
    parser.add_argument("--frames", type=int, default=16, metavar="N", help="to calibrate and to check on, each")
    args = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    try:
        for name in args.model:
            folded = MODELS[name]()
            known, others = (_frames(args, split, folded.image_size[0]) for split in ("train", "test"))
            for report in reports(folded, known, others):
                rows.append({"model": name, **_measured(report)})
                print(_line(rows[-1]), flush=True)
        lines = [_HEAD, "|---|---|" + "--:|" * 6, *map(_line, rows)]
        figures.write(args.output, rows, lines, outlier=OUTLIER)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def reports(folded: FoldedHTCLIP, known: Tensor, others: Tensor) -> Iterator[Report]:
    """The gate's report on each precision, with limits that nothing exceeds.

    Args:
        folded: the model in float32.
        known: frames (B, 1, H, W) uint8 to calibrate on.
        others: frames to check on.
    """
    bfloat16 = copy.deepcopy(folded)
    bfloat16.round_to(torch.bfloat16)
    yield check_folded(folded, bfloat16, others, _ANY)
    yield check_folded(folded, quantize_fp8(folded, known), others, _ANY)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(folded, path, precision="int8", batch=(1, 1, 4), calibration=known)
        yield check_onnx(folded, path, others, _ANY)


def _breast() -> FoldedHTCLIP:
    return ht.fold(ht.HTCLIP.from_checkpoint("breast").eval())


def _outlier() -> FoldedHTCLIP:
    torch.manual_seed(0)
    model = ht.HTCLIP("timm/vit_base_patch16_224", num_classes=2)
    for adapter in adapters(model.tower).values():
        shake(adapter)
    folded = ht.fold(model.eval())
    folded.position[..., 0] += OUTLIER
    return folded


MODELS = {"breast": _breast, "ViT-B/16 with an outlier": _outlier}


def _frames(args: argparse.Namespace, split: str, size: int) -> Tensor:
    """Frames (args.frames, 1, size, size), or fewer, spread over a split of the data set."""
    images = read_examples(SegmentationDataset(args.data, args.dataset, split, size)).images
    return images[torch.linspace(0, len(images) - 1, min(args.frames, len(images))).long()]


def _measured(report: Report) -> dict[str, Any]:
    names = ("precision", "frames", "calibration_frames", "relative_error", "cosine", "agreement_mean")
    return {name: getattr(report, name) for name in (*names, "dice_mean", "dice_worst", "distance_error")}


def _line(row: dict[str, Any]) -> str:
    distance = "" if row["distance_error"] is None else f"{100 * row['distance_error']:.1f} %"
    cells = [row["model"], row["precision"], f"{row['relative_error']:.3f}", f"{row['cosine']:.5f}"]
    cells += [f"{100 * row['agreement_mean']:.2f} %", f"{row['dice_mean']:.3f}", f"{row['dice_worst']:.3f}", distance]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
