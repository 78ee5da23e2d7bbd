"""The options that say which model, for every subcommand that runs one."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ht_kernels.arguments import need_side
from ht_kernels.errors import InputError
from ht_kernels.files import why
from ht_kernels.weights import SHIPPED, locate
from ht_kernels.weights.foreign import foreign

from . import terminal

if TYPE_CHECKING:
    from ht_kernels.clip import HTCLIP

TOWER = ("backbone", "pretrained", "image_size")
"""The names of the options that :func:`add_tower_arguments` adds."""

NAMES = f"or {' or '.join(SHIPPED)}, whose weights come with the package"
"""What the help of an option that takes a checkpoint says of :func:`ht_kernels.weights.locate`."""

CHECKPOINT = f"trained model, in our format or the published one; {NAMES}"
"""The help of an argument CHECKPOINT."""

UNTRAINED = (
    "The weights are untrained: the masks show that everything runs, not anatomy. "
    "For a trained model use ht-kernels stream with --checkpoint."
)


def add_arguments(parser: argparse._ActionsContainer, exported: bool = False) -> None:
    """Add ``--checkpoint`` and the options of the tower.

    With ``exported`` the help says that ``--checkpoint`` may also name a file of ``ht-kernels export``.
    """
    help = "trained adapters and heads, in our format or the published one; "
    if exported:
        help += "a file of ht-kernels export; "
    help += NAMES
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help=help)
    add_tower_arguments(parser)


def add_tower_arguments(parser: argparse._ActionsContainer) -> None:
    """Add ``--backbone``, ``--pretrained`` and ``--image-size``, which name a tower without a checkpoint."""
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        help="vision tower, such as ViT-B-16, hf-hub:ORG/REPO or timm/NAME (default: the checkpoint's, else ViT-B-16)",
    )
    parser.add_argument(
        "--pretrained", metavar="TAG", help="the tower's weights: a tag of open_clip or timm, or the path of a file"
    )
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="N",
        help="side of the images in pixels, a multiple of the patch size; positions are resampled (default: the "
        "checkpoint's, else the tower's own)",
    )


def given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the named options that the user gave."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def check_image_size(args: argparse.Namespace) -> None:
    """Refuse an ``--image-size`` that no tower can take, before one is made.

    Raises:
        InputError: it is no size of an image.
    """
    if args.image_size is not None:
        need_side("--image-size", args.image_size)


def check_checkpoint(checkpoint: Path) -> Path:
    """The file of a checkpoint, which is there and may hold weights.

    Raises:
        InputError: there is no such file, no weights of this name come with the package, or it is something else.
    """
    path = locate(checkpoint)
    if not path.is_file():
        raise InputError(f"there is no checkpoint file {path}")
    try:
        with path.open("rb") as file:
            problem = foreign(path, file.read(512))
    except OSError as error:
        problem = why(error)
    if problem:
        raise InputError(f"{path} cannot be read as a checkpoint file: {problem}")
    return path


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Say Python's warnings in a line each, without the place in the code that they come from."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    terminal.warn([str(warning.message) for warning in caught])


def load_model(args: argparse.Namespace, **overrides: Any) -> tuple[HTCLIP, bool]:
    """The model asked for, in evaluation mode, and whether it was trained. An untrained one is the same every time.

    ``overrides`` are arguments of HTCLIP for a checkpoint. Warnings about a checkpoint are said in a line each.

    Raises:
        InputError: a name or a file does not fit.
    """
    from ht_kernels.clip import HTCLIP

    check_image_size(args)
    chosen = given(args, *TOWER)
    if args.checkpoint is not None:
        with plain_warnings():
            model = HTCLIP.from_checkpoint(args.checkpoint, **chosen, **overrides).eval()
        return model, True
    return untrained_model(**chosen), False


def untrained_model(backbone: str = "ViT-B-16", pretrained: str | None = None, image_size: int | None = None) -> HTCLIP:
    """A segmentation model with reproducible random adapters and head."""
    import torch

    from ht_kernels.clip import HTCLIP

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return HTCLIP(backbone, pretrained, task="segmentation", num_classes=2, image_size=image_size).eval()


def warn_untrained() -> None:
    """Say on stderr that the weights are untrained."""
    print(UNTRAINED, file=sys.stderr)
