"""``ht-kernels phantom``: simulated ultrasound with exact masks, as images for training or as clips."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ht_kernels.choices import LESIONS, PHANTOM_SIDES
from ht_kernels.errors import InputError, did_you_mean
from ht_kernels.files import check_foreign, claim, output_folder
from ht_kernels.outputs import PHANTOM_CLIPS, PHANTOMS, SETTINGS
from ht_kernels.progress import Watch, watched
from ht_kernels.words import counted

from . import config, outputs, terminal

if TYPE_CHECKING:
    from ht_kernels.data.phantom import Phantom

HELP = "simulate ultrasound images or clips with exact masks"
EXAMPLE = "ht-kernels phantom --count 300 --output phantoms"

_FPS = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    to = parser.add_argument_group("outputs")
    to.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder that gets the images or clips")
    outputs.add_overwrite(to)
    what = parser.add_argument_group("phantoms")
    what.add_argument(
        "--count", type=int, default=1, metavar="N", help="how many images or clips (default: %(default)s)"
    )
    what.add_argument("--clip", type=int, metavar="FRAMES", help="make moving clips of this length instead of images")
    what.add_argument("--seed", type=int, default=0, help="the same seed gives the same images (default: %(default)s)")
    what.add_argument("--size", type=int, default=224, metavar="PIXELS", help="height and width (default: %(default)s)")
    what.add_argument("--kind", metavar="KIND", help=f"{', '.join(LESIONS)} or none (default: any lesion)")
    what.add_argument("--sector", action="store_true", help="make sector scans instead of linear ones")
    what.add_argument(
        "--header",
        action="store_true",
        help="begin labels.csv with a header line, which the published code cannot read",
    )


def run(args: argparse.Namespace) -> int:
    _check(args)
    from ht_kernels.data.phantom import draw_phantom
    from ht_kernels.data.prepare.write import listed, written_before

    phantoms: list[tuple[int, Phantom]] = []
    for i in range(args.count):
        seed = args.seed * 1_000_003 + i  # runs with neighbouring seeds share no image
        phantoms.append((seed, draw_phantom(seed, args.sector, (args.size, args.size), args.kind)))
    empty: list[str] = []
    clips = listed(args.output / PHANTOM_CLIPS)
    replaced: list[str | Path] = [*written_before(args.output, "PHANTOM"), *([PHANTOM_CLIPS] if clips else []), *clips]
    check_foreign(args.output, [*PHANTOMS, *_targets(phantoms, args.clip)], replaced)
    with (
        terminal.interruptible(),
        output_folder(args.output, replaced, strict=True) as folder,
        terminal.track() as watch,
    ):
        if args.clip:
            _write_clips(folder, phantoms, args.clip, watch)
            what = f"{counted(args.count, 'clip')} with masks"
        else:
            empty = _write_images(folder, phantoms, args.seed, args.header, watch)
            what = f"{counted(args.count, 'image')} with masks, labels, captions and splits"
    config.write(args, args.output / SETTINGS)
    print(f"wrote {what} to {args.output}")
    if empty:
        print(f"no image is left for {' and '.join(empty)}: make 3 or more to train on them")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot be simulated or written, before the work."""
    for option, value in (("--count", args.count), ("--clip", args.clip)):
        if value is not None and value < 1:
            raise InputError(f"{option} {value} was given, expected 1 or more")
    if args.seed < 0:
        raise InputError(f"--seed {args.seed} was given, expected 0 or more")
    least, most = PHANTOM_SIDES
    if not least <= args.size <= most:
        raise InputError(f"--size {args.size} was given, expected {least} to {most} pixels")
    kinds = *LESIONS, "none"
    if args.kind is not None and args.kind not in kinds:
        meant = did_you_mean(args.kind, kinds)
        raise InputError(f"--kind {args.kind} is unknown; expected one of {', '.join(kinds)}{meant}")
    claim(args.output, (*PHANTOMS, SETTINGS), args.overwrite)
    config.check_foreign(args, args.output / SETTINGS)


def _name(number: int, phantom: Phantom) -> str:
    return f"phantom_{phantom.kind}_{number:05}"


def _targets(phantoms: list[tuple[int, Phantom]], frames: int | None) -> list[Path]:
    """The images and masks of a data set, or the videos and masks of clips with so many frames."""
    from ht_kernels.data.layout import image_path, mask_path

    names = [_name(i, phantom) for i, (_, phantom) in enumerate(phantoms)]
    if frames is None:
        return [place(Path(), f"{name}.png") for name in names for place in (image_path, mask_path)]
    masks = [Path("masks") / f"{number:05}.png" for number in range(1, frames + 1)]
    return [Path(name) / file for name in names for file in (Path("clip.mp4"), *masks)]


def _write_images(
    folder: Path, phantoms: list[tuple[int, Phantom]], seed: int, header: bool, watch: Watch
) -> list[str]:
    """Write a data set; returns the splits that got no image."""
    from ht_kernels.data.layout import SPLITS
    from ht_kernels.data.phantom import caption, simulate
    from ht_kernels.data.prepare.splits import split_groups
    from ht_kernels.data.prepare.write import write_checksums, write_image, write_splits

    labels: dict[str, int] = {}
    captions: dict[str, str] = {}
    for i, (image_seed, phantom) in enumerate(watched(phantoms, "simulating images", watch)):
        sample = simulate(phantom, image_seed)
        name = f"{_name(i, phantom)}.png"
        write_image(folder, name, sample.image, sample.mask)
        labels[name], captions[name] = sample.label, caption(sample)
    splits = split_groups(range(len(labels)), [None] * len(labels), seed)
    write_splits(folder, "PHANTOM", dict(zip(labels, splits, strict=True)), labels, captions, header)
    write_checksums(folder, "PHANTOM", list(labels))
    return [split for split in SPLITS if split not in splits]


def _write_clips(folder: Path, phantoms: list[tuple[int, Phantom]], frames: int, watch: Watch) -> None:
    import numpy as np

    from ht_kernels.data.phantom import clip
    from ht_kernels.data.prepare.write import list_checksums
    from ht_kernels.video.sinks import MaskSink, VideoSink

    for i, (seed, phantom) in enumerate(phantoms):
        target = folder / _name(i, phantom)
        target.mkdir()
        video, masks = VideoSink(target / "clip.mp4", _FPS), MaskSink(target / "masks")
        for index, sample in enumerate(clip(phantom, seed, frames)):
            video.write(np.repeat(sample.image[..., None], 3, 2))
            masks.write(sample.mask, index)
            watch("simulating frames", i * frames + index + 1, len(phantoms) * frames)
        video.close()
    list_checksums(folder, folder / PHANTOM_CLIPS, (folder / file for file in _targets(phantoms, frames)))
