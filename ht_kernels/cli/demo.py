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
    from ht_kernels.video import Result

HELP = "segment the clip that comes with pydicom, then compare the published way with this one"
CLIP = "examples_ybr_color.dcm"
"""30 frames, 240x320: a cardiac ultrasound among pydicom's own files."""

_ROUNDS = 7


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=Path, default=Path("ht-kernels-demo"), metavar="DIR", help="default: %(default)s"
    )


def run(args: argparse.Namespace) -> int:
    import ht_kernels as ht
    from ht_kernels.video import open_source

    source = open_source(_clip())
    print(f"Clip: {source.path.name} from pydicom, {source.frame_count} frames, {source.size[0]}x{source.size[1]}")
    print("Model: ViT-B-16, hybrid adapters behind every block, segmentation head with 2 classes")
    print(model_options.UNTRAINED, flush=True)
    with stream.interruptible():
        model = model_options.untrained_model()
        _shake(model)
        folded = ht.fold(model)
        results: list[Result] = []
        report = stream.segment_clip(source, folded, args.output, weights="untrained", keep=results)
        print("\n" + "\n".join(stream.summary(report)), flush=True)
        comparison = _compare(model, folded, results)
        picture = args.output / "contact_sheet.png"
        _draw(picture, results, report)
    print("\n" + "\n".join(_table(comparison)))
    print(f"\nwrote overlay.mp4, masks/, report.json and {picture.name} to {args.output}")
    return 0


def _clip() -> str:
    try:
        from pydicom.data import get_testdata_file
    except ImportError as error:
        raise InputError("the demo's clip comes with pydicom, which is not installed: pip install pydicom") from error
    path = get_testdata_file(CLIP, download=False)
    if not isinstance(path, str):
        raise InputError(f"this pydicom does not carry {CLIP}: pip install --upgrade pydicom")
    return path


def _shake(model: HTCLIP) -> None:
    """Random adapters: as made they pass their input on almost unchanged, and nothing would be compared."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "mona" in name:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))


def _compare(model: HTCLIP, folded: FoldedHTCLIP, results: list[Result]) -> dict[str, Any]:
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


def _draw(path: Path, results: list[Result], report: dict[str, Any]) -> None:
    """Eight frames with their masks, and where a frame's time goes."""
    import matplotlib

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
    top.suptitle("Untrained weights: the masks show the plumbing, not anatomy", fontsize=11)
    stages = [stage for stage in report["latency_ms"] if stage != "end_to_end"]
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
