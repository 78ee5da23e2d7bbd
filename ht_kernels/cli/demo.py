"""``ht-kernels demo``: a real ultrasound clip through the model, then the published way against this package."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import model_options, terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure
    from torch import Tensor

    from ht_kernels.clip import HTCLIP
    from ht_kernels.deploy import FoldedHTCLIP
    from ht_kernels.video import Shown

HELP = "segment a simulated and a real clip, then compare the published way with this one"
NEVER_SAW_ANATOMY = "The clip is of a heart, and the model never saw anatomy: its masks there mean nothing."

_SECONDS = 3.0
"""How long the two ways are timed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("ht-kernels-demo"),
        metavar="DIR",
        help="where results go (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    import ht_kernels as ht
    from ht_kernels.clip import HTCLIP
    from ht_kernels.files import png_bytes, write_whole
    from ht_kernels.media.opening import open_file
    from ht_kernels.video import Stream, record
    from ht_kernels.video.example import example_clip
    from ht_kernels.weights import PHANTOM

    source = open_file(example_clip())
    print(f"Clip: {source.path.name} from pydicom, {source.frame_count} frames, {source.size[0]}x{source.size[1]}")
    print(
        "Weights: ViT-Tiny/16 with hybrid adapters, trained on simulated phantoms only; not a medical device",
        flush=True,
    )
    with terminal.interruptible():
        trained = ht.fold(HTCLIP.from_checkpoint(PHANTOM).eval())
        dice, pace = _segment_phantom(trained)
        print(f"Unseen phantom clip: Dice {dice:.3f} against the exact masks, {pace:.0f} frames per second", flush=True)
        print(NEVER_SAW_ANATOMY, flush=True)
        results: list[Shown] = []
        stream = Stream(trained)
        with terminal.on_interrupt(stream.stop), terminal.progress(source.frame_count) as say:

            def watch(shown: Shown) -> None:
                say(shown)
                results.append(shown)

            report = record(source, stream, args.output, weights=PHANTOM.name, watch=watch)
        if report["interrupted"]:
            raise KeyboardInterrupt
        terminal.warn(report["input"]["warnings"])
        print("\n" + "\n".join(terminal.summary(report)), flush=True)
        print("\nFor the comparison: ViT-B-16, hybrid adapters behind every block, random weights", flush=True)
        model = model_options.untrained_model()
        _shake_adapters(model)
        folded = ht.fold(model)
        comparison = _compare(model, folded, results)
        picture = args.output / "contact_sheet.png"
        write_whole(picture, png_bytes(_draw(results, report)), "the picture")
    print("\n" + "\n".join(_table(comparison)))
    print(f"\nwrote overlay.mp4, masks/, report.json and {picture.name} to {args.output}")
    return 0


def _segment_phantom(model: FoldedHTCLIP) -> tuple[float, float]:
    """Mean Dice over a clip of a phantom that was not trained on, and frames per second from frame to overlay."""
    import numpy as np

    from ht_kernels.data.phantom import Phantom, clip
    from ht_kernels.dice import dice
    from ht_kernels.video import Stream

    samples = clip(Phantom(kind="hypoechoic"), seed=0, frames=30)
    stream = Stream(model)
    overlaps = []
    for shown in stream.run(sample.image for sample in samples):
        assert shown.mask is not None, shown.note
        overlaps.append(dice(shown.mask > 0, samples[shown.index].mask > 0))
    return float(np.mean(overlaps)), stream.report()["fps"]


def _shake_adapters(model: HTCLIP) -> None:
    """Give the adapters random parameters; new ones change so little that the comparison would show nothing."""
    import torch

    from ht_kernels.bench.shake import shake
    from ht_kernels.clip.injection import adapters

    torch.manual_seed(0)
    for adapter in adapters(model.tower).values():
        shake(adapter)


def _compare(model: HTCLIP, folded: FoldedHTCLIP, results: list[Shown]) -> dict[str, Any]:
    """Latency and difference of the two ways on one frame, taken in turns."""
    import torch

    from ht_kernels.bench.measure import interleave
    from ht_kernels.classes import classes_of
    from ht_kernels.media.preprocess import preprocess
    from ht_kernels.published import PublishedHTCLIP

    published = PublishedHTCLIP.like(model)
    frames = preprocess(results[0].frame, folded.image_size)
    images = (frames / 255).expand(-1, 3, -1, -1).contiguous()
    ways: dict[str, Callable[[], Tensor]] = {
        "published": lambda: published(images),
        "ht_kernels": lambda: folded(frames),
    }
    with torch.inference_mode():
        logits = {name: way() for name, way in ways.items()}
        timings = interleave(ways, _SECONDS)
    theirs, ours = logits["published"], logits["ht_kernels"]
    return {
        "milliseconds": {name: 1e3 * timing.median for name, timing in timings.items()},
        "samples": timings["ht_kernels"].samples,
        "difference": float((theirs - ours).abs().max()),
        "range": float(theirs.abs().max()),
        "agreement": float((classes_of(theirs) == classes_of(ours)).float().mean()),
    }


def _table(comparison: dict[str, Any]) -> list[str]:
    theirs, ours = comparison["milliseconds"]["published"], comparison["milliseconds"]["ht_kernels"]
    samples = comparison["samples"]
    return [
        "One frame, the whole model         published  ht_kernels",
        f"milliseconds, median of {samples:<11}{theirs:>9.1f}{ours:>12.1f}   {theirs / ours:.2f} times as fast",
        f"largest difference of logits       {comparison['difference']:.1e} (logits up to {comparison['range']:.2f})",
        f"pixels with the same class         {100 * comparison['agreement']:.3f} %",
    ]


def _draw(results: list[Shown], report: dict[str, Any]) -> Figure:
    """Eight frames with their masks, and where a frame's time goes."""
    from matplotlib.figure import Figure

    from ht_kernels.video.stream import STAGES

    figure = Figure(figsize=(12, 8.2), layout="constrained", dpi=110)
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
    return figure
