"""How well the distance from the training images tells other images from those of a model's own kind.

``python -m benchmarks.familiarity CHECKPOINT DATA --output DIR`` writes familiarity.json, a table beside it in
Markdown, familiarity.csv with the distance of every image, and familiarity.png. CHECKPOINT is a calibrated model. The
test split of its data set in DATA is compared with images of other kinds and with the same images changed; an AUROC of
1 means that every one of the others is farther away than every test image.
"""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

import ht_kernels as ht
from ht_kernels.data import SegmentationDataset
from ht_kernels.deploy import FoldedHTCLIP
from ht_kernels.distance_scale import NOT_CALIBRATED, DistanceScale
from ht_kernels.errors import InputError
from ht_kernels.files import csv_bytes, png_bytes, write_whole
from ht_kernels.media.frames import Frame
from ht_kernels.media.opening import open_file
from ht_kernels.media.preprocess import preprocess
from ht_kernels.train import read_examples, simulate_examples
from ht_kernels.video.example import CLIP, example_clip

from . import figures

Size = tuple[int, int]

PHANTOMS, SEED = 60, 7
_BATCH = 16
_SMALLEST = 64
"""Pictures with a shorter side are left out."""

_PHOTOGRAPHS = ("astronaut", "camera", "chelsea", "clock", "coffee", "coins", "page", "rocket", "text")
"""Pictures that scikit-image carries, of people, things and texts."""


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark. Return exit status 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.familiarity", description=__doc__)
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a calibrated model")
    parser.add_argument("data", type=Path, metavar="DATA", help="a folder in the published layout")
    parser.add_argument("--dataset", default="BUSI", metavar="NAME", help="which of its data sets")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="for figures, table and chart")
    args = parser.parse_args(argv)
    try:
        folded = ht.fold(ht.HTCLIP.from_checkpoint(args.checkpoint).eval())
        if folded.familiarity is None:
            raise InputError(NOT_CALIBRATED)
        test = read_examples(SegmentationDataset(args.data, args.dataset, "test", folded.image_size[0])).images
        sets, left_out = images(test, args.dataset, folded.image_size)
        found, scale = {name: distances(folded, frames) for name, frames in sets.items()}, folded.familiarity.scale
        rows = summarize(found, scale)
        path = args.output / "familiarity.json"
        figures.write(path, rows, table(rows, scale, left_out), limit=scale.limit, checkpoint=args.checkpoint.name)
        each = [{"set": name, "distance": float(d)} for name, values in found.items() for d in values]
        write_whole(path.with_suffix(".csv"), csv_bytes(each), "the distances")
        write_whole(path.with_suffix(".png"), draw(found, scale), "the chart")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(table(rows, scale, left_out)))
    return 0


def images(test: Tensor, dataset: str, size: Size) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The sets of images, (N, 1, H, W) uint8 by name, the test split first; and why others are left out."""
    sets = {
        f"{dataset} test split": test,
        "mirrored left to right": test.flip(3),
        "upside down": test.flip(2),
        "JPEG of quality 5": torch.stack([compressed(image) for image in test]),
        "half the gain": _gain(test, 0.5),
        "1.8 times the gain": _gain(test, 1.8),
    }
    others: dict[str, Callable[[Size], Tensor]] = {
        "heart ultrasound": lambda size: torch.cat([_pixels(frame, size) for frame in open_file(example_clip())]),
        "other ultrasound": lambda size: _dicom(size, lambda kind: kind == "US"),
        "CT, MR and other DICOM": lambda size: _dicom(size, lambda kind: kind != "US"),
        "simulated phantoms": lambda size: simulate_examples(PHANTOMS, SEED, size[0]).images,
        "photographs": _photographs,
    }
    left_out = {}
    for name, read in others.items():
        try:
            sets[name] = read(size)
        except InputError as error:
            left_out[name] = str(error)
    return sets, left_out


@torch.inference_mode()
def distances(folded: FoldedHTCLIP, frames: Tensor) -> Tensor:
    """The distances (N,) of frames from the training images."""
    return torch.cat([folded.with_distance(part)[1] for part in torch.split(frames, _BATCH)])


def auroc(familiar: Tensor, others: Tensor) -> float:
    """The share of pairs in which the other image is farther away; ties count half."""
    apart = others[None] - familiar[:, None]
    return float(((apart > 0) + 0.5 * (apart == 0)).mean())


def summarize(found: dict[str, Tensor], scale: DistanceScale) -> list[dict[str, Any]]:
    """A row for each set: how far its images are, and how well they are told from the first set."""
    first = next(iter(found.values()))
    return [
        {
            "set": name,
            "images": len(values),
            "median": float(values.median()),
            "auroc": None if values is first else auroc(first, values),
            "unfamiliar": sum(map(scale.unfamiliar, values.tolist())),
        }
        for name, values in found.items()
    ]


def table(rows: list[dict[str, Any]], scale: DistanceScale, left_out: dict[str, str]) -> list[str]:
    """The lines of the report in Markdown."""
    lines = [
        f"The limit is {scale.limit:.2f}; the validation images are at {scale.quantiles[0]:.2f} to "
        f"{scale.quantiles[-1]:.2f}.",
        "",
        "| | images | median distance | AUROC | unfamiliar |",
        "|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        area = "" if row["auroc"] is None else f"{_below_one(row['auroc']):.3f}"
        share = f"{row['unfamiliar'] / row['images']:.0%}"
        lines.append(f"| {row['set']} | {row['images']} | {row['median']:.2f} | {area} | {share} |")
    return lines + [line for name, why in left_out.items() for line in ("", f"Left out: {name}. {why}")]


def draw(found: dict[str, Tensor], scale: DistanceScale) -> bytes:
    """Draw a dot for each image, in a row for each set, and the limit as a line."""
    figure = Figure(figsize=(9, 5.4), layout="constrained", dpi=120)
    axes = figure.subplots()
    chance = np.random.default_rng(0)
    for place, values in enumerate(found.values()):
        color = np.where(values.numpy() > scale.limit, "#c8501e", "#6c8ebf")
        axes.scatter(values, place + chance.uniform(-0.3, 0.3, len(values)), s=7, c=color, linewidths=0)
        axes.plot([values.median()] * 2, [place - 0.36, place + 0.36], color="black", linewidth=1.2)
    axes.axvline(scale.limit, color="#333333", linewidth=0.9, linestyle="dashed")
    axes.text(scale.limit, -0.75, f" limit {scale.limit:.2f}", fontsize=8, color="#333333")
    axes.set_yticks(range(len(found)), [f"{name} ({len(values)})" for name, values in found.items()])
    axes.set(xscale="log", xlabel="distance from the training images", ylim=(len(found) - 0.4, -1.1))
    axes.tick_params(axis="x", which="both", length=4)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.spines[["top", "right"]].set_visible(False)
    return png_bytes(figure)


def _below_one(area: float) -> float:
    """An area that is not rounded to 1.000 unless it is 1, which is said to mean that no image is out of order."""
    return area if area == 1 else min(area, 0.999)


def compressed(image: Tensor) -> Tensor:
    """An image (1, H, W) uint8 as a JPEG of quality 5 shows it."""
    content = io.BytesIO()
    Image.fromarray(image[0].numpy()).save(content, "JPEG", quality=5)
    return torch.from_numpy(np.array(Image.open(content)))[None]


def _gain(images: Tensor, factor: float) -> Tensor:
    return (images.float() * factor).round().clamp(0, 255).to(torch.uint8)


def _dicom(size: Size, wanted: Callable[[str], bool]) -> Tensor:
    """The middle frames of the files that come with pydicom, by their modality, without doubles."""
    frames = {bytes(frame.numpy()): frame for kind, frame in _pydicom_frames(size) if wanted(kind)}
    if not frames:
        raise InputError("pydicom carries no such file that can be decoded here")
    return torch.cat(list(frames.values()))


def _pydicom_frames(size: Size) -> Iterator[tuple[str, Tensor]]:
    """Modality and frame of each file that is an image, but for the heart clip.

    Values are stretched from their 1st to their 99th percentile, because many of the files say nothing about display.
    """
    import pydicom
    from pydicom.data import get_testdata_files

    for name in sorted(map(str, get_testdata_files())):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # many of the files are made to be odd
                dataset = pydicom.dcmread(name)
                pixels = dataset.pixel_array
        except Exception:  # and some cannot be decoded
            continue
        colours = dataset.get("SamplesPerPixel", 1) == 3
        stack = pixels.reshape(-1, *pixels.shape[-3 if colours else -2 :])
        frame = stack[len(stack) // 2].astype(np.float64)
        low, high = np.percentile(frame, [1, 99])
        if Path(name).name == CLIP or min(frame.shape[:2]) < _SMALLEST or high <= low:
            continue
        shown = ((frame - low) / (high - low)).clip(0, 1) * 255
        yield dataset.get("Modality") or "OT", _pixels(shown.astype(np.uint8), size)


def _photographs(size: Size) -> Tensor:
    try:
        from skimage import data
    except ImportError as error:
        raise InputError("They come with scikit-image, which is not installed: pip install scikit-image") from error
    shown = (Image.fromarray(getattr(data, name)()) for name in _PHOTOGRAPHS)
    return torch.cat([_pixels(np.asarray(image.convert("RGB")), size) for image in shown])


def _pixels(frame: Frame, size: Size) -> Tensor:
    return torch.from_numpy(preprocess(frame, size))


if __name__ == "__main__":
    sys.exit(main())
