"""A stream as an application has it: a source, a model, what is shown, and a report when it ends.

Without INPUT it plays a clip that comes with pydicom as a scanner would. The clip is of a heart and the weights
``phantom`` saw phantoms only, so the masks mean nothing: name ``breast``, your own checkpoint, or a file of ht-kernels
export.

    python examples/live.py [INPUT] [--checkpoint FILE] [--seconds 5] [--output DIR]
"""

from __future__ import annotations

import argparse
import threading
from pathlib import Path

import ht_kernels as ht
from ht_kernels.deploy.places import is_exported
from ht_kernels.errors import InputError
from ht_kernels.video.example import example_clip
from ht_kernels.weights import PHANTOM


def open_model(path: Path) -> ht.deploy.FoldedHTCLIP | ht.deploy.Session:
    """A checkpoint as a folded model, an exported file as a session."""
    if is_exported(path):
        return ht.deploy.Session.open(path)
    return ht.fold(ht.HTCLIP.from_checkpoint(path).eval())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input", nargs="?", metavar="INPUT", help="a clip, a video, a folder, a camera, an address")
    parser.add_argument("--checkpoint", type=Path, default=PHANTOM, metavar="FILE")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long it runs")
    parser.add_argument("--output", type=Path, metavar="DIR", help="also write video, masks and a report there")
    args = parser.parse_args()

    try:
        source = ht.video.open_source(args.input or example_clip())
    except InputError as error:
        parser.error(str(error))
    stream = ht.video.Stream(open_model(args.checkpoint), live=True, crop="auto", smooth=0.6)
    timer = threading.Timer(args.seconds, stream.stop)  # your program has a button
    timer.daemon = True
    timer.start()

    def watch(shown: ht.video.Shown) -> None:
        if shown.index % 10 == 0:
            found = "no mask" if shown.mask is None else f"{100 * (shown.mask > 0).mean():.1f} % of the frame"
            print(f"{shown.seconds:6.2f} s  frame {shown.index:4d}  {shown.state:9}  {found}  {shown.note}")

    if args.output is not None:
        report = ht.video.record(source, stream, args.output, weights=args.checkpoint.name, watch=watch)
    else:
        for shown in stream.run(source):  # shown.overlay is what a screen would show
            watch(shown)
        report = stream.report()
    timer.cancel()
    print(f"{report['frames']} frames shown, {report['masks_per_second']} masks a second, states {report['states']}")


if __name__ == "__main__":
    main()
