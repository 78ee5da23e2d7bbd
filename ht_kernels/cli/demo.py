"""``ht-kernels demo``: images, clips and the comparison of :mod:`ht_kernels.demo`, in words and as a contact sheet."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ht_kernels.files import check_foreign, claim, drawn
from ht_kernels.outputs import CONTACT_SHEET, DEMO

from . import outputs, terminal

if TYPE_CHECKING:
    from ht_kernels.demo.breast import Segmented
    from ht_kernels.demo.comparison import Comparison

HELP = "segment breast images, a simulated and a real clip, then compare the published way with this one"
EXAMPLE = "ht-kernels demo --output pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("ht-kernels-demo"),
        metavar="DIR",
        help="where results go (default: %(default)s)",
    )
    outputs.add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    claim(args.output, DEMO, args.overwrite)
    check_foreign(args.output, [CONTACT_SHEET], drawn(args.output, [CONTACT_SHEET], "demo"))
    import ht_kernels as ht
    from ht_kernels.clip import HTCLIP
    from ht_kernels.demo import breast, clips, comparison, sheet
    from ht_kernels.deploy.fastest import fastest
    from ht_kernels.files import make_folder, png_bytes, write_whole
    from ht_kernels.video import Stream
    from ht_kernels.video.model import FrameModel
    from ht_kernels.video.recording import check_output
    from ht_kernels.weights import BREAST, PHANTOM

    source = clips.heart()
    check_output(source, args.output)
    make_folder(args.output)
    picture = args.output / CONTACT_SHEET
    picture.unlink(missing_ok=True)  # one of an earlier run would not show what an interrupted one leaves
    with terminal.interruptible():
        model = HTCLIP.from_checkpoint(BREAST).eval()
        folded, runner = ht.fold(model), fastest(model)
        print(f"Weights: {BREAST.name}, {model.config.backbone} with adapters; not a medical device")
        print(f"The fastest runtime here runs the models: {FrameModel(runner).describe()['runtime']}")
        print("\nSix images of breasts that were not trained on, compared with the outlines of experts")
        print(f"({breast.CREDIT})", flush=True)
        images = breast.segment(runner)
        print("\n".join(_breast_lines(images)), flush=True)

        print(f"\nA simulated phantom in motion, by a smaller model of its own, {PHANTOM.name}", flush=True)
        phantom = clips.segment_phantom(fastest(HTCLIP.from_checkpoint(PHANTOM).eval()))
        mean = sum(phantom.dice) / len(phantom.dice)
        print(f"Dice {mean:.3f} against the exact masks, {phantom.fps:.0f} frames per second", flush=True)

        print(f"\nThe clip of a heart, {source.path.name} from pydicom, for which the breast model was not made:")
        print("frames that are unlike its training images are unfamiliar, and get no mask", flush=True)
        stream = Stream(runner)
        with terminal.on_interrupt(stream.stop), terminal.progress(source.frame_count) as say:
            heart = clips.record_heart(source, stream, args.output, BREAST.name, say)
        if heart.report["interrupted"]:
            raise KeyboardInterrupt
        terminal.warn(heart.report["input"]["warnings"])
        print("\n".join(terminal.summary(heart.report)), flush=True)

        print(
            "\nThe published computation against ht_kernels, in torch: the breast model on one image, in turns",
            flush=True,
        )
        compared = comparison.compare(model, folded, images[0].sample.image)
        print("\n".join(_comparison_lines(compared)), flush=True)
        write_whole(picture, png_bytes(sheet.draw(images, phantom, heart, compared), "demo"), "the picture")
    print(f"\nwrote {terminal.listed(args.output, [picture.name, *heart.report['files']])} to {args.output}")
    return 0


def _breast_lines(images: Sequence[Segmented]) -> list[str]:
    lines = [f"{'image':<16}{'Dice':>9}{'confidence':>12}{'distance':>10}{'percentile':>12}  state"]
    for image in images:
        shown = image.shown
        cells = [(image.dice, 9, ".3f"), (shown.confidence, 12, ".2f"), (shown.distance, 10, ".2f")]
        cells.append((shown.percentile, 12, ".0f"))
        row = "".join(f"{'-' if value is None else format(value, form):>{width}}" for value, width, form in cells)
        lines.append(f"{image.sample.name:<16}{row}  {shown.state}")
    return lines


def _comparison_lines(comparison: Comparison) -> list[str]:
    return [
        f"{'':<35}published  ht_kernels",
        f"milliseconds, median of {comparison.samples:<11}{comparison.published:>9.1f}{comparison.ours:>12.1f}   "
        f"{comparison.ratio:.2f} times as fast",
        f"largest difference of logits       {comparison.difference:.1e} (logits up to {comparison.range:.2f})",
        f"pixels with the same class         {100 * comparison.agreement:.3f} %",
    ]
