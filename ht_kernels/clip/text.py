"""What a CLIP model with a text tower brings beside its weights: its tokenizer and its image preprocessing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from ht_kernels.errors import InputError, first_line

from .open_clip import open_clip

if TYPE_CHECKING:
    from PIL.Image import Image

Tokenizer = Callable[[list[str]], Tensor]
"""Sentences to tokens (B, L) int64."""


_RESIZED = {
    "shortest": "shrunk until the shorter side fits, and the middle cropped, to",
    "longest": "shrunk until the longer side fits, and filled up, to",
    "squash": "resized, aspect ratio not kept, to",
}
"""In words, by open_clip's name."""


class Preprocessing(NamedTuple):
    """``resize`` takes an image to (3, S, S) RGB in [0, 1], as ``words`` say; ``mean`` and ``std`` are by channel."""

    words: str
    resize: Callable[[Image], Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def find_tokenizer(backbone: str | nn.Module) -> Tokenizer:
    """The tokenizer of a CLIP model by name, or OpenAI's in the context length of a module.

    Raises:
        InputError: it has no text tower, or its tokenizer cannot be had.
    """
    library = open_clip("the tokenizer of a CLIP model")
    if isinstance(backbone, nn.Module):
        if not hasattr(backbone, "encode_text"):
            raise InputError(
                f"image-text tasks need a CLIP model with a text tower, and this {type(backbone).__name__} has no "
                "encode_text"
            )
        return library.tokenizer.SimpleTokenizer(context_length=getattr(backbone, "context_length", 77))  # type: ignore[no-any-return]
    try:
        return library.get_tokenizer(backbone)  # type: ignore[no-any-return]
    except Exception as error:  # of transformers or the hub, of many kinds
        raise InputError(f"the tokenizer of {backbone} cannot be had ({first_line(error)})") from error


def find_preprocessing(clip_model: nn.Module, image_size: tuple[int, int]) -> Preprocessing:
    """What open_clip noted at the model when it was made, else what OpenAI's CLIP does."""
    open_clip("the preprocessing of a CLIP model")
    from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict  # type: ignore[import-untyped]

    noted = getattr(clip_model.visual, "preprocess_cfg", {})
    chosen = {**merge_preprocess_dict(PreprocessCfg(), noted), "size": image_size}
    # Mean and standard deviation are the model's work, so that folding reaches them.
    plain = PreprocessCfg(**{**chosen, "mean": (0.0,) * 3, "std": (1.0,) * 3})
    words = f"{_RESIZED[chosen['resize_mode']]} {image_size[0]}x{image_size[1]} ({chosen['interpolation']})"
    resize = image_transform_v2(plain, is_train=False)
    return Preprocessing(words, resize, tuple(chosen["mean"]), tuple(chosen["std"]))
