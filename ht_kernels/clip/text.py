"""The tokenizer and the image preprocessing that belong to a CLIP model with a text tower."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from ht_kernels.errors import InputError, reason

from .open_clip import open_clip

if TYPE_CHECKING:
    from PIL.Image import Image

Tokenizer = Callable[[list[str]], Tensor]
"""A function from sentences to tokens (B, L) int64."""


_RESIZED = {
    "shortest": "shrunk until the shorter side fits, and the middle cropped, to",
    "longest": "shrunk until the longer side fits, and filled up, to",
    "squash": "resized, aspect ratio not kept, to",
}
"""Descriptions of open_clip's resize modes, by their names."""


class Preprocessing(NamedTuple):
    """The preprocessing of images.

    ``resize`` turns an image into RGB (3, S, S) with values in [0, 1], and ``words`` describes how. ``mean`` and
    ``std`` hold a value per channel.
    """

    words: str
    resize: Callable[[Image], Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def find_tokenizer(backbone: str | nn.Module) -> Tokenizer:
    """The tokenizer of a CLIP model given by name; for a module, OpenAI's tokenizer with the module's context length.

    Raises:
        InputError: the model has no text tower, or its tokenizer cannot be loaded.
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
    except Exception as error:  # transformers and the hub raise many kinds of exceptions
        raise InputError(f"the tokenizer of {backbone} cannot be loaded ({reason(error)})") from error


def find_preprocessing(clip_model: nn.Module, image_size: tuple[int, int]) -> Preprocessing:
    """The preprocessing that open_clip set on the model when it made it; otherwise that of OpenAI's CLIP."""
    open_clip("the preprocessing of a CLIP model")
    from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict  # type: ignore[import-untyped]

    noted = getattr(clip_model.visual, "preprocess_cfg", {})
    chosen = {**merge_preprocess_dict(PreprocessCfg(), noted), "size": image_size}
    # The model itself normalizes by mean and standard deviation, so that folding can include it.
    plain = PreprocessCfg(**{**chosen, "mean": (0.0,) * 3, "std": (1.0,) * 3})
    words = f"{_RESIZED[chosen['resize_mode']]} {image_size[0]}x{image_size[1]} ({chosen['interpolation']})"
    resize = image_transform_v2(plain, is_train=False)
    return Preprocessing(words, resize, tuple(chosen["mean"]), tuple(chosen["std"]))
