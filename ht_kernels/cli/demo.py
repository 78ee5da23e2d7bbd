"""``ht-kernels demo``: a real ultrasound clip through the pipeline, then the published way against this package."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ht_kernels.errors import InputError

from . import model_options, stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from ht_kernels.clip import HTCLIP
    from ht_kernels.deploy import FoldedHTCLIP
    from ht_kernels.video import Shown

HELP = "segment a simulated and a real clip, then compare the published way with this one"
CLIP = "examples_ybr_color.dcm"
"""30 frames, 240x320: a cardiac ultrasound among pydicom's own files."""

NEVER_SAW_ANATOMY = "The clip is of a heart, and the model never saw anatomy: its masks there mean nothing."

_ROUNDS = 7


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=Path, default=Path("ht-kernels-demo"), metavar="DIR", help="default: %(default)s"
    )


def run(args: argparse.Namespace) -> int:
    import ht_kernels as ht
    from ht_kernels.clip import HTCLIP
    from ht_kernels.video.sources import open_file
    from ht_kernels.weights import PHANTOM

    source = open_file(example_clip())
    print(f"Clip: {source.path.name} from pydicom, {source.frame_count} frames, {source.size[0]}x{source.size[1]}")
    print(
        "Weights: ViT-Tiny/16 with hybrid adapters, trained on simulated phantoms only; not a medical device",
        flush=True,
    )
    with stream.interruptible():
        trained = ht.fold(HTCLIP.from_checkpoint(PHANTOM).eval())
        dice, pace = _segment_phantom(trained)
        print(f"Unseen phantom clip: Dice {dice:.3f} against the exact masks, {pace:.0f} frames per second", flush=True)
        print(NEVER_SAW_ANATOMY, flush=True)
        results: list[Shown] = []
        report = stream.segment_clip(source, trained, args.output, weights=str(PHANTOM.name), keep=results)
        print("\n" + "\n".join(stream.summary(report)), flush=True)
        print("\nFor the comparison: ViT-B-16, hybrid adapters behind every block, random weights", flush=True)
        model = model_options.untrained_model()
        _shake(model)
        folded = ht.fold(model)
        comparison = _compare(model, folded, results)
        picture = args.output / "contact_sheet.png"
        _draw(picture, results, report)
    print("\n" + "\n".join(_table(comparison)))
    print(f"\nwrote overlay.mp4, masks/, report.json and {picture.name} to {args.output}")
    return 0


def example_clip() -> str:
    """Path of the clip.

    Raises:
        InputError: pydicom or the clip is missing.
    """
    try:
        from pydicom.data import get_testdata_file
    except ImportError as error:
        raise InputError("the example clip comes with pydicom, which is not installed: pip install pydicom") from error
    path = get_testdata_file(CLIP, download=False)
    if not isinstance(path, str):
        raise InputError(f"this pydicom does not carry {CLIP}: pip install --upgrade pydicom")
    return path


def _segment_phantom(model: FoldedHTCLIP) -> tuple[float, float]:
    """Mean Dice over a clip of a phantom that was not trained on, and frames per second from frame to overlay."""
    import numpy as np

    from ht_kernels.data.phantom import Phantom, clip
    from ht_kernels.video import Pipeline

    samples = clip(Phantom(kind="hypoechoic"), seed=0, frames=30)
    pipeline = Pipeline(model)
    masks = [result.mask > 0 for result in pipeline.run(sample.image for sample in samples)]
    pairs = [(mask, sample.mask > 0) for mask, sample in zip(masks, samples, strict=True)]
    dice = [2 * (mask & truth).sum() / (mask.sum() + truth.sum()) for mask, truth in pairs]
    return float(np.mean(dice)), pipeline.report()["fps"]


def _shake(model: HTCLIP) -> None:
    """Random adapters: as made they pass their input on almost unchanged, and nothing would be compared."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "mona" in name:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))


def _compare(model: HTCLIP, folded: FoldedHTCLIP, results: list[Shown]) -> dict[str, Any]:
    """Latency and difference of the two ways on one frame, taken in turns."""
    import torch

    from ht_kernels.published import PublishedHTCLIP
    from ht_kernels.video.preprocess import preprocess

    published = PublishedHTCLIP.like(model)
    frames = preprocess(results[0].frame, folded.image_size)
    images = (frames / 255).expand(-1, 3, -1, -1).contiguous()
    ways: dict[str, Callable[[], Tensor]] = {
        "published": lambda: published(images),
        "ht_kernels": lambda: folded(frames),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    logits: dict[str, Tensor] = {}
    with torch.inference_mode():
        for way in ways.values():
            way()
        for _ in range(_ROUNDS):
            for name, way in ways.items():
                start = time.perf_counter()
                logits[name] = way()
                seconds[name].append(time.perf_counter() - start)
    theirs, ours = logits["published"], logits["ht_kernels"]
    return {
        "milliseconds": {name: sorted(times)[_ROUNDS // 2] * 1e3 for name, times in seconds.items()},
        "difference": float((theirs - ours).abs().max()),
        "range": float(theirs.abs().max()),
        "agreement": float((theirs.argmax(1) == ours.argmax(1)).float().mean()),
    }


def _table(comparison: dict[str, Any]) -> list[str]:
    theirs, ours = comparison["milliseconds"]["published"], comparison["milliseconds"]["ht_kernels"]
    return [
        "One frame, the whole model         published  ht_kernels",
        f"milliseconds, median of {_ROUNDS:<11}{theirs:>9.1f}{ours:>12.1f}   {theirs / ours:.2f} times as fast",
        f"largest difference of logits       {comparison['difference']:.1e} (logits up to {comparison['range']:.2f})",
        f"pixels with the same class         {100 * comparison['agreement']:.3f} %",
    ]


def _draw(path: Path, results: list[Shown], report: dict[str, Any]) -> None:
    """Eight frames with their masks, and where a frame's time goes."""
    import matplotlib

    from ht_kernels.video.stream import STAGES

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(12, 8.2), layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=(3, 1))
    top, bottom = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    shown = [results[i * (len(results) - 1) // 7] for i in range(8)] if len(results) > 1 else results
    for axes, result in zip(top.subplots(2, 4).flat, shown, strict=False):
        axes.imshow(result.overlay)
        axes.set_title(f"frame {result.index + 1}", fontsize=9)
        axes.axis("off")
    top.suptitle(NEVER_SAW_ANATOMY, fontsize=11)
    stages = [stage for stage in STAGES if stage in report["latency_ms"]]
    axes = bottom.add_subplot()
    positions = range(len(stages))
    for offset, name, color in ((-0.2, "p50", "#2a7f9e"), (0.2, "p95", "#b5d3de")):
        values = [report["latency_ms"][stage][name] for stage in stages]
        bars = axes.barh([p + offset for p in positions], values, 0.38, color=color, label=name)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.set_yticks(list(positions), stages)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds per frame")
    axes.margins(x=0.08)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    partial = path.with_suffix(".partial.png")
    try:
        figure.savefig(partial, dpi=110)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
        plt.close(figure)
