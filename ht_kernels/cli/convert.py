"""``ht-kernels convert``: a checkpoint from our format into that of the published code, or back."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ht_kernels.errors import InputError
from ht_kernels.files import claim_files
from ht_kernels.weights import is_ours

from . import model_options, outputs

if TYPE_CHECKING:
    from ht_kernels.clip import HTCLIP

HELP = "turn a checkpoint of ours into one that the published code loads, or the other way round"
EXAMPLE = "ht-kernels convert run/best.safetensors --output published.pth"

_ENDING = ".safetensors"  # of files in our format
_WIDTH = 768  # of the tokens that the published pyramid takes, except behind OpenAI's towers
_PACKAGES = {"timm": "timm", "open_clip": "open_clip", "openai": "OpenAI"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help=model_options.CHECKPOINT)
    to = parser.add_argument_group("outputs")
    to.add_argument("--output", type=Path, metavar="FILE", required=True, help="the file to write")
    outputs.add_overwrite(to)
    to.add_argument(
        "--to",
        choices=["published", "ours"],
        help="the format to write (default: the one that CHECKPOINT does not have)",
    )
    model_options.add_tower_arguments(parser.add_argument_group("model"))


def run(args: argparse.Namespace) -> int:
    model_options.check_image_size(args)
    path = model_options.check_checkpoint(args.checkpoint)
    if args.output.exists() and args.output.samefile(path):
        raise InputError(f"{args.output} is the checkpoint itself, of which parts would be lost: name another output")
    claim_files([args.output], args.overwrite)
    ours = is_ours(path)
    to = args.to or ("published" if ours else "ours")
    if args.to is None and (args.output.suffix.lower() == _ENDING) == (to == "published"):
        form = "in our format" if ours else "a published one"
        raise InputError(
            f"{path} is {form}, and {args.output} has an ending of that format ({_ENDING} is ours): name the output by "
            "the format that it gets, or say --to published or --to ours"
        )
    if not ours and args.backbone is None:
        raise InputError(f"{path} is a published file, which does not name its vision tower: pass --backbone")
    from ht_kernels.clip.checkpoint import kind
    from ht_kernels.clip.published_checkpoint import check_layers, package, save_published

    overrides: dict[str, Any] = {"task": "contrastive"} if kind(path) == "adapters" else {}
    model, _ = model_options.load_model(args, **overrides)
    if to == "ours":
        model.save(args.output)
        print(f"wrote {args.output}")
        return 0
    check_layers(model)
    save_published(model, args.output)
    for sentence in _said_of(model):
        print(sentence, file=sys.stderr)
    print(f"wrote {args.output} for the published code with a tower of {_PACKAGES[package(model)]}: {_options(model)}")
    return 0


def _said_of(model: HTCLIP) -> list[str]:
    """What a published file has no place for, and what the published code does not do, in sentences."""
    from torch import nn

    from ht_kernels.clip.published_checkpoint import package
    from ht_kernels.clip.towers import TimmTower

    said, config, tower = [], model.config, model.tower
    if model.familiarity is not None:
        said.append("The familiarity is left out: the published format has no place for it.")
    if config.class_names is not None:
        said.append(f"The names of the classes are left out: {', '.join(config.class_names)}.")
    if config.task != "contrastive":
        other = []
        if package(model) != "openai" and tower.dim != _WIDTH:
            other.append(f"tokens of width {tower.dim} where its pyramid takes {_WIDTH}")
        if tower.prefix_tokens != 1:
            other.append(f"{tower.prefix_tokens} tokens before the patches where it adds 1")
        if isinstance(tower, TimmTower) and not isinstance(tower.pre_norm, nn.Identity):
            other.append("a norm before the blocks, which it leaves out")
        if other:
            said.append(f"The published code as it is does not run this tower: it has {', and '.join(other)}.")
    return said


def _options(model: HTCLIP) -> str:
    """The options of the published code that a model's file goes with."""
    from ht_kernels.clip.injection import adapters

    config, options = model.config, []
    if adapters(model.tower):
        options += [f"--mona_variant {config.variant}", f"--mona_bottleneck {config.bottleneck}"]
    if config.task != "contrastive":
        options += [f"--reduce_dim {config.reduce_dim}", f"--num_classes {config.num_classes}"]
        options += [f"--img_size {model.tower.image_size[0]}"]
    return " ".join(options)
